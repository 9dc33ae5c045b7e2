"""PEFT: a frozen base and the few weights that are trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from real_case import Case, case, classes, cuts, negative_log_likelihood, normal, stir
from real_language import DECODERS, ENCODERS, N, classified, made, next_tokens, share_classified, tokens
from real_vision import CLASSIFIERS
from real_vision import classified as images_classified
from torch import Tensor, nn

NEEDS = "peft transformers"


def adapted(base: nn.Module, seed: int, config: str, **options: Any) -> nn.Module:
    """A model of peft around a base; every adapter's weights are away from their initial ones."""
    import peft

    return stir(peft.get_peft_model(base, getattr(peft, config)(**options)), seed + 7)


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, "lora_dropout": 0.1}),
    "dora": ("LoraConfig", {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True}),
    "ia3": ("IA3Config", {"target_modules": ["c_attn", "c_fc"], "feedforward_modules": ["c_fc"],
                          "fan_in_fan_out": True}),
    "prompt tuning": ("PromptTuningConfig", {"num_virtual_tokens": 3, "num_layers": 2, "token_dim": 32,
                                             "num_attention_heads": 4}),
}  # fmt: skip


def _adapter(config: str, options: dict[str, Any]) -> Callable[[int], Case]:
    def build(seed: int) -> Case:
        kind, base_options = DECODERS["gpt2"]
        model = adapted(made(kind, seed, **base_options), seed, config, task_type="CAUSAL_LM", **options)
        data = tokens(seed, padded=False)
        data["labels"] = data["input_ids"].clone()
        prompts = options.get("num_virtual_tokens", 0)

        def plain(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
            if not prompts:
                return next_tokens(model, data)
            total = 0.0  # of the tokens of the text alone; the last prompt predicts its first token
            for batch in cuts(data, 5):
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                predicted = logits[:, prompts - 1 : -1]
                total = total + negative_log_likelihood(predicted, batch["labels"]).sum()
            return total / data["labels"].numel()

        return Case(model, None, data, plain, options={"batch_size": 4, "params": trained(model)})

    return build


def trained(model: nn.Module) -> list[str]:
    """Names of the parameters that the user trains."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


for _name, (_config, _options) in ADAPTERS.items():
    case(f"gpt2 with {_name}", "adapter", f"GPT2LMHeadModel, {_config}", "the model's own", "dict of tensors", NEEDS)(
        _adapter(_config, _options)
    )


@case("bert with lora", "adapter", "BertForSequenceClassification, LoraConfig with a trained head", "cross-entropy",
      "dict of tensors", NEEDS)  # fmt: skip
def _bert_lora(seed: int) -> Case:
    kind, options = ENCODERS["bert"]
    base = made(kind, seed, num_labels=3, **options)
    model = adapted(base, seed, "LoraConfig", r=2, target_modules=["query", "value"], modules_to_save=["classifier"],
                    task_type="SEQ_CLS")  # fmt: skip
    data = tokens(seed) | {"labels": classes(seed + 2, 3, N)}
    options_of_objective = {"batch_size": 4, "params": trained(model)}
    return Case(model, "cross_entropy", data, classified, share_classified, options_of_objective)


@case("vit with lora", "adapter", "ViTForImageClassification, LoraConfig, everything moves", "cross-entropy",
      "(x, y) tensors", NEEDS)  # fmt: skip
def _vit_lora(seed: int) -> Case:
    kind, size, options = CLASSIFIERS["vit"]
    base = made(kind, seed, num_labels=5, **options)
    names = sorted({name.rsplit(".", 1)[-1] for name, module in base.named_modules() if isinstance(module, nn.Linear)})
    wanted = [name for name in names if name.startswith(("q", "v"))]
    model = adapted(base, seed, "LoraConfig", r=2, target_modules=wanted)
    data = normal(seed, N, 3, size, size), classes(seed, 5, N)
    return Case(model, "cross_entropy", data, images_classified, options={"batch_size": 4, "params": ["*"]})


@case("lora merged", "adapter", "GPT2LMHeadModel, LoraConfig merged into its base", "the model's own",
      "dict of tensors", NEEDS)  # fmt: skip
def _merged(seed: int) -> Case:
    kind, base_options = DECODERS["gpt2"]
    config, options = ADAPTERS["lora"]
    model = adapted(made(kind, seed, **base_options), seed, config, task_type="CAUSAL_LM", **options)
    model = model.merge_and_unload().eval()
    data = tokens(seed, padded=False)
    data["labels"] = data["input_ids"].clone()
    return Case(model, None, data, next_tokens, options={"batch_size": 4})
