"""The ground around what LoRA trains: the adapters move, the base holds still. pip install peft transformers."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import lossnav as ln

torch.manual_seed(0)
base = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=2, n_head=2))
model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"]))
tokens = (torch.arange(16) + torch.arange(64)[:, None]) % 32  # counting, from 64 beginnings
data = {"input_ids": tokens, "labels": tokens}
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for _ in range(60):
    model(**data).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

objective = ln.Objective(model.eval(), None, data)  # loss=None: the model returns its own
plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 9)), store="lora.zarr", overwrite=True)
print(objective)
print(ln.report(surface)["held still"].said)
