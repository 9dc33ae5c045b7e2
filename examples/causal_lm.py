"""A causal language model of transformers: the model shifts the labels and returns its own loss."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lossnav as ln

torch.manual_seed(0)
sizes = {"vocab_size": 20, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
start = torch.randint(0, 20, (64, 1))
text = (start + 3 * torch.arange(16)) % 20  # each token is the one before it plus three
data = {"input_ids": text, "labels": text}
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(30):
    optimizer.zero_grad()
    model(**data).loss.backward()
    optimizer.step()
objective = ln.Objective(model.eval(), None, data, metrics=["token_accuracy"])
plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 9)))
print(surface.lossnav.summary())
ln.plot.write("contour", surface, "causal_lm.png", overwrite=True)
