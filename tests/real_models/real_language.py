"""Hugging Face language models, from configuration: encoders, decoders, encoder-decoders, experts, state spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from real_case import Case, case, classes, cuts, negative_log_likelihood, stir
from torch import Tensor, nn

N, LENGTH, VOCABULARY = 12, 8, 48
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
DECODER = {**SMALL, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}


def made(name: str, seed: int, **options: Any) -> nn.Module:
    """A model of transformers by name, `BertForSequenceClassification` say, with random weights."""
    import transformers

    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    cls = getattr(transformers, name)
    model: nn.Module = cls(cls.config_class(**options))
    return stir(model, seed)


def tokens(seed: int, rows: int = N, padded: bool = True) -> dict[str, Tensor]:
    """Token ids from 3 up, and a mask that leaves out a different number of tokens at the end of each row."""
    ids = classes(seed, VOCABULARY - 3, rows, LENGTH) + 3
    lengths = (classes(seed + 1, LENGTH - 3, rows) + 4) if padded else torch.full((rows,), LENGTH)
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


# ---------------------------------------------------------------------- encoders that classify


def classified(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the rows, five at a time."""
    total = 0.0
    for batch in cuts(data, 5):
        targets = batch.pop("labels")
        total = total + negative_log_likelihood(model(**batch).logits, targets).sum()
    return total / len(data["labels"])


def share_classified(model: nn.Module, data: dict[str, Tensor]) -> float:
    right = 0
    for batch in cuts(data, 5):
        targets = batch.pop("labels")
        right += int((model(**batch).logits.argmax(-1) == targets).sum())
    return right / len(data["labels"])


ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", SMALL),
    "roberta": ("RobertaForSequenceClassification", SMALL | {"pad_token_id": 1}),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "albert": ("AlbertForSequenceClassification", SMALL | {"embedding_size": 16}),
    "electra": ("ElectraForSequenceClassification", SMALL | {"embedding_size": 16}),
    "deberta": (
        "DebertaV2ForSequenceClassification",
        SMALL | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    ),
    "fnet": ("FNetForSequenceClassification", {k: v for k, v in SMALL.items() if k != "num_attention_heads"}),
    "mpnet": ("MPNetForSequenceClassification", SMALL),
    "squeezebert": ("SqueezeBertForSequenceClassification", SMALL | {"embedding_size": 32}),
    "modernbert": ("ModernBertForSequenceClassification", SMALL | {"eos_token_id": 2, "bos_token_id": 1}),
}


def _encoder(kind: str, options: dict[str, Any]) -> Callable[[int], Case]:
    def build(seed: int) -> Case:
        model = made(kind, seed, num_labels=3, **options)
        data = tokens(seed) | {"labels": classes(seed + 2, 3, N)}
        if kind.startswith("FNet"):
            del data["attention_mask"]
        bert = kind.startswith("Bert")
        return Case(model, "cross_entropy", data, classified, share_classified, {"batch_size": 4}, tuned=bert)

    return build


for _name, (_kind, _options) in ENCODERS.items():
    case(_name, "encoder", _kind, "cross-entropy", "dict of tensors", "transformers")(_encoder(_kind, _options))


@case("bert tokens", "encoder", "BertForTokenClassification", "cross-entropy of tokens, padding ignored (-100)",
      "dict of tensors", "transformers")  # fmt: skip
def _bert_tokens(seed: int) -> Case:
    model = made("BertForTokenClassification", seed, num_labels=4, **SMALL)
    data = tokens(seed)
    data["labels"] = torch.where(data["attention_mask"] == 1, classes(seed + 2, 4, N, LENGTH), -100)

    def plain(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
        total, count = 0.0, 0
        for batch in cuts(data, 7):
            targets = batch.pop("labels")
            valid = targets != -100
            total = total + negative_log_likelihood(model(**batch).logits[valid], targets[valid]).sum()
            count += int(valid.sum())
        return total / count

    def transposed(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return model(batch["input_ids"], batch["attention_mask"]).logits.transpose(1, 2), batch["labels"]

    def accuracy(model: nn.Module, data: dict[str, Tensor]) -> float:
        valid = data["labels"] != -100
        logits = model(data["input_ids"], data["attention_mask"]).logits
        return float((logits.argmax(-1) == data["labels"])[valid].double().mean())

    options = {"batch_size": 4, "forward": transposed}
    return Case(model, "cross_entropy", data, plain, accuracy, options)


@case("bert masked", "encoder", "BertForMaskedLM", "the model's own, equally many masked tokens a row",
      "dict of tensors", "transformers")  # fmt: skip
def _bert_masked(seed: int) -> Case:
    model = made("BertForMaskedLM", seed, **SMALL)
    data = tokens(seed, padded=False)
    chosen = torch.rand(N, LENGTH, generator=torch.Generator().manual_seed(seed)).argsort(1) < 2
    data["labels"] = torch.where(chosen, data["input_ids"], -100)

    def plain(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
        total = 0.0
        for batch in cuts(data, 5):
            targets = batch.pop("labels")
            valid = targets != -100
            total = total + negative_log_likelihood(model(**batch).logits[valid], targets[valid]).sum()
        return total / (2 * N)

    return Case(model, None, data, plain, options={"batch_size": 4})


@case("electra detector", "encoder", "ElectraForPreTraining", "binary cross-entropy of tokens",
      "dict of tensors", "transformers")  # fmt: skip
def _electra(seed: int) -> Case:
    model = made("ElectraForPreTraining", seed, **SMALL, embedding_size=16)
    data = tokens(seed, padded=False) | {"labels": classes(seed + 2, 2, N, LENGTH).float()}

    def plain(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
        logits = model(data["input_ids"], data["attention_mask"]).logits
        return (nn.functional.softplus(logits) - data["labels"] * logits).mean()

    return Case(model, "binary_cross_entropy_with_logits", data, plain, options={"batch_size": 5})


# ---------------------------------------------------------------------- decoders


def next_tokens(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood of every next token, over all tokens of all rows."""
    total, count = 0.0, 0
    for batch in cuts(data, 5):
        targets = batch.pop("labels")
        logits = model(**batch).logits[:, :-1]
        valid = targets[:, 1:] != -100
        total = total + negative_log_likelihood(logits[valid], targets[:, 1:][valid]).sum()
        count += int(valid.sum())
    return total / count


DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 1,
         "eos_token_id": 2},
    ),
    "llama": ("LlamaForCausalLM", DECODER),
    "gpt-neox": ("GPTNeoXForCausalLM", SMALL | {"bos_token_id": 1, "eos_token_id": 2}),
    "opt": (
        "OPTForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
         "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    ),
    "mistral": ("MistralForCausalLM", DECODER | {"sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", DECODER | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", DECODER | {"head_dim": 8}),
    "gemma": ("GemmaForCausalLM", DECODER | {"head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", DECODER | {"head_dim": 8, "sliding_window": 4}),
    "phi": ("PhiForCausalLM", {k: v for k, v in DECODER.items() if k != "num_key_value_heads"}),
    "bloom": (
        "BloomForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2,
         "pad_token_id": 0},
    ),
    "falcon": (
        "FalconForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
    "olmo2": ("Olmo2ForCausalLM", DECODER),
    "xlnet": (
        "XLNetLMHeadModel", {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
    ),
    # experts
    "mixtral": ("MixtralForCausalLM", DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        DECODER | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                   "shared_expert_intermediate_size": 24},
    ),
    "olmoe": ("OlmoeForCausalLM", DECODER | {"num_experts": 4, "num_experts_per_tok": 2}),
    "gpt-oss": (
        "GptOssForCausalLM",
        DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8,
                   "layer_types": ["sliding_attention", "full_attention"]},
    ),
    # state spaces and other recurrences
    "mamba": (
        "MambaForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 4, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4,
         "head_dim": 8, "n_groups": 2, "chunk_size": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "rwkv": (
        "RwkvForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32,
         "intermediate_size": 48, "context_length": 32, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False},
    ),
    "recurrentgemma": (
        "RecurrentGemmaForCausalLM",
        DECODER | {"head_dim": 8, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3,
                   "use_cache": False},
    ),
}  # fmt: skip
FAMILIES = {"mixtral": "experts", "qwen2-moe": "experts", "olmoe": "experts", "gpt-oss": "experts"} | dict.fromkeys(
    ("mamba", "mamba2", "rwkv", "recurrentgemma"), "state space"
)


def _decoder(kind: str, options: dict[str, Any]) -> Callable[[int], Case]:
    def build(seed: int) -> Case:
        model = made(kind, seed, **options)
        data = tokens(seed, padded=False)
        data["labels"] = data["input_ids"].clone()
        if kind.startswith(("Rwkv", "Mamba", "RecurrentGemma", "XLNet")):
            del data["attention_mask"]
        plain = every_token if kind.startswith("XLNet") else next_tokens
        return Case(model, None, data, plain, options={"batch_size": 4}, tuned=kind.startswith("Llama"))

    return build


def every_token(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
    """XLNet's own loss does not shift its labels."""
    return negative_log_likelihood(model(data["input_ids"]).logits, data["labels"]).mean()


for _name, (_kind, _options) in DECODERS.items():
    case(
        _name, FAMILIES.get(_name, "decoder"), _kind, "the model's own", "dict of tensors", "transformers"
    )(_decoder(_kind, _options))  # fmt: skip


@case("gpt2 padded", "decoder", "GPT2LMHeadModel", "cross-entropy of the next token, padding ignored (-100)",
      "list of dicts of different length", "transformers")  # fmt: skip
def _gpt2_padded(seed: int) -> Case:
    kind, options = DECODERS["gpt2"]
    model = made(kind, seed, **options)
    rows = tokens(seed, 14)
    rows["labels"] = torch.where(rows["attention_mask"] == 1, rows["input_ids"], -100)
    order = rows["attention_mask"].sum(1).argsort()
    batches = []
    for some in order.split(5):
        longest = int(rows["attention_mask"][some].sum(1).max())
        batches.append({key: part[some, :longest] for key, part in rows.items()})

    def shifted(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:]

    def plain(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
        total, count = 0.0, 0
        for batch in batches:
            for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
                length = int(mask.sum())  # one row at a time, without its padding
                logits = model(ids[None, :length]).logits[0, : length - 1]
                total = total + negative_log_likelihood(logits, labels[1:length]).sum()
                count += length - 1
        return total / count

    def accuracy(model: nn.Module, batches: list[dict[str, Tensor]]) -> float:
        right = count = 0
        for batch in batches:
            predicted = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)[:, :-1]
            valid = batch["labels"][:, 1:] != -100
            right += int((predicted == batch["labels"][:, 1:])[valid].sum())
            count += int(valid.sum())
        return right / count

    return Case(model, "cross_entropy", batches, plain, accuracy, {"forward": shifted}, tuned=True)


@case("llama padded", "decoder", "LlamaForCausalLM", "the model's own, batches weighted by their labels",
      "list of dicts, count=", "transformers")  # fmt: skip
def _llama_padded(seed: int) -> Case:
    """The mean over all labels, though every batch holds another number of them."""
    kind, options = DECODERS["llama"]
    model = made(kind, seed, **options)
    rows = tokens(seed, 13)
    rows["labels"] = torch.where(rows["attention_mask"] == 1, rows["input_ids"], -100)
    batches = list(cuts(rows, 5))

    def plain(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
        total, count = 0.0, 0
        for batch in batches:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                row = ids[: int(mask.sum())]
                total = total + negative_log_likelihood(model(row[None]).logits[0, :-1], row[1:]).sum()
                count += len(row) - 1
        return total / count

    options = {"count": lambda batch: int((batch["labels"][:, 1:] != -100).sum())}
    return Case(model, None, batches, plain, options=options)


# ---------------------------------------------------------------------- encoder and decoder

SEQUENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
         "pad_token_id": 0, "decoder_start_token_id": 0},
    ),
    "bart": (
        "BartForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
         "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 2, "forced_eos_token_id": 2},
    ),
    "pegasus": (
        "PegasusForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
         "max_position_embeddings": 64, "pad_token_id": 0, "decoder_start_token_id": 0},
    ),
}  # fmt: skip


def _sequence(kind: str, options: dict[str, Any]) -> Callable[[int], Case]:
    def build(seed: int) -> Case:
        model = made(kind, seed, **options)
        data = tokens(seed) | {"labels": classes(seed + 2, VOCABULARY - 3, N, 5) + 3}
        start = options["decoder_start_token_id"]

        def plain(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
            total = 0.0
            for batch in cuts(data, 5):
                targets = batch.pop("labels")
                given = torch.cat([torch.full((len(targets), 1), start), targets[:, :-1]], 1)
                total = total + negative_log_likelihood(model(**batch, decoder_input_ids=given).logits, targets).sum()
            return total / data["labels"].numel()

        return Case(model, None, data, plain, options={"batch_size": 4})

    return build


for _name, (_kind, _options) in SEQUENCES.items():
    case(_name, "encoder-decoder", _kind, "the model's own", "dict of tensors", "transformers")(
        _sequence(_kind, _options)
    )


@case("mixtral balanced", "experts", "MixtralForCausalLM", "cross-entropy and a balance of experts, the model's own",
      "list of one dict", "transformers")  # fmt: skip
def _mixtral_balanced(seed: int) -> Case:
    kind, options = DECODERS["mixtral"]
    model = made(kind, seed, **options, output_router_logits=True, router_aux_loss_coef=0.3)
    data = tokens(seed, padded=False)
    data["labels"] = data["input_ids"].clone()

    def plain(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
        """Fedus et al. 2021, eq. 4, as Mixtral has it: experts x sum of (share of tokens x mean probability)."""
        (batch,) = batches
        outputs = model(batch["input_ids"], batch["attention_mask"])
        own = negative_log_likelihood(outputs.logits[:, :-1], batch["labels"][:, 1:]).mean()
        probabilities = torch.cat(list(outputs.router_logits)).softmax(-1)
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(2, dim=1).indices, 1.0)
        return own + 0.3 * 4 * (chosen.mean(0) * probabilities.mean(0)).sum()

    return Case(model, None, [data], plain)
