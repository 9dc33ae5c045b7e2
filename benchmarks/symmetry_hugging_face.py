"""Models of Hugging Face, small, from configurations: what `benchmarks.symmetries` looks at beside those by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Network = Callable[[], tuple[nn.Module, Any]]


def _images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def _ids(length: int) -> Tensor:
    return torch.randint(0, 31, (2, length), generator=torch.Generator().manual_seed(1))


def _hf(name: str, example: Callable[[], Any], head: str = "", **options: Any) -> Network:
    def make() -> tuple[nn.Module, Any]:
        import transformers

        config = getattr(transformers, f"{name}Config")(**options)
        return getattr(transformers, f"{name}{head}")(config), example()

    return make


_TEXT: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
_GROUPED = _TEXT | {"num_key_value_heads": 2}
_IMAGE = {"image_size": 16, "patch_size": 4, "num_channels": 3}
_VISION = _IMAGE | {
    k: _TEXT[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
}


def _tokens() -> dict[str, Any]:
    return {"input_ids": _ids(7)}


def _pixels(size: int = 16) -> Callable[[], dict[str, Any]]:
    return lambda: {"pixel_values": _images(size)}


def _both() -> dict[str, Any]:
    return {"input_ids": _ids(7), "decoder_input_ids": _ids(5)}


HUGGING_FACE: dict[str, Network] = {
    "BERT": _hf("Bert", _tokens, "ForMaskedLM", **_TEXT),
    "ViT": _hf("ViT", _pixels(), "ForImageClassification", **_VISION),
    "ResNet": _hf(
        "ResNet",
        _pixels(32),
        "ForImageClassification",
        embedding_size=8,
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 2, 1, 1],
    ),
    "ConvNeXt": _hf(
        "ConvNext", _pixels(32), "ForImageClassification", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1]
    ),
    "Llama": _hf("Llama", _tokens, "ForCausalLM", **_GROUPED),
    "GPT-2": _hf("GPT2", _tokens, "LMHeadModel", vocab_size=31, n_embd=16, n_layer=2, n_head=4, n_positions=16),
    "Pythia (GPT-NeoX)": _hf("GPTNeoX", _tokens, "ForCausalLM", **_TEXT),
    "MobileNetV2": _hf("MobileNetV2", _pixels(32), "ForImageClassification", depth_multiplier=0.25, min_depth=4),
    "Swin": _hf(
        "Swin",
        _pixels(16),
        "ForImageClassification",
        image_size=16,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
}

MORE: dict[str, Network] = {
    "RoBERTa": _hf("Roberta", _tokens, "ForSequenceClassification", **_TEXT | {"max_position_embeddings": 20}),
    "DistilBERT": _hf(
        "DistilBert",
        _tokens,
        "ForMaskedLM",
        vocab_size=31,
        dim=16,
        n_layers=2,
        n_heads=4,
        hidden_dim=24,
        max_position_embeddings=16,
    ),
    "ALBERT": _hf("Albert", _tokens, "ForMaskedLM", embedding_size=12, **_TEXT),
    "ELECTRA": _hf("Electra", _tokens, "ForPreTraining", embedding_size=12, **_TEXT),
    "DeBERTa": _hf("Deberta", _tokens, "ForMaskedLM", **_TEXT),
    "DeBERTa-v2": _hf("DebertaV2", _tokens, "ForMaskedLM", **_TEXT),
    "T5": _hf(
        "T5", _both, "ForConditionalGeneration", vocab_size=31, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4
    ),
    "BART": _hf(
        "Bart",
        _both,
        "ForConditionalGeneration",
        vocab_size=31,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=16,
    ),
    "Mistral": _hf("Mistral", _tokens, "ForCausalLM", **_GROUPED),
    "Qwen2": _hf("Qwen2", _tokens, "ForCausalLM", **_GROUPED),
    "Qwen3": _hf("Qwen3", _tokens, "ForCausalLM", head_dim=4, **_GROUPED),
    "Gemma": _hf("Gemma", _tokens, "ForCausalLM", head_dim=4, **_GROUPED),
    "Gemma 2": _hf("Gemma2", _tokens, "ForCausalLM", head_dim=4, **_GROUPED),
    "Phi": _hf("Phi", _tokens, "ForCausalLM", **_GROUPED),
    "Falcon": _hf(
        "Falcon", _tokens, "ForCausalLM", vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=4
    ),
    "BLOOM (ALiBi)": _hf("Bloom", _tokens, "ForCausalLM", vocab_size=31, hidden_size=16, n_layer=2, n_head=4),
    "OPT": _hf(
        "OPT",
        _tokens,
        "ForCausalLM",
        vocab_size=31,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=24,
        max_position_embeddings=16,
        word_embed_proj_dim=16,
    ),
    "GPT-J": _hf(
        "GPTJ", _tokens, "ForCausalLM", vocab_size=31, n_embd=16, n_layer=2, n_head=4, n_positions=16, rotary_dim=4
    ),
    "Mixtral": _hf("Mixtral", _tokens, "ForCausalLM", num_local_experts=4, num_experts_per_tok=2, **_GROUPED),
    "Qwen2-MoE": _hf(
        "Qwen2Moe",
        _tokens,
        "ForCausalLM",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=12,
        shared_expert_intermediate_size=12,
        **_GROUPED,
    ),
    "Mamba": _hf("Mamba", _tokens, "ForCausalLM", vocab_size=31, hidden_size=16, num_hidden_layers=2, state_size=4),
    "DeiT": _hf("DeiT", _pixels(), "ForImageClassification", **_VISION),
    "BEiT": _hf("Beit", _pixels(), "ForImageClassification", use_relative_position_bias=True, **_VISION),
    "DINOv2": _hf(
        "Dinov2",
        _pixels(),
        "ForImageClassification",
        mlp_ratio=2,
        **{k: v for k, v in _VISION.items() if k != "intermediate_size"},
    ),
    "Swin-v2": _hf(
        "Swinv2",
        _pixels(16),
        "ForImageClassification",
        image_size=16,
        patch_size=2,
        embed_dim=8,
        depths=[2, 1],
        num_heads=[2, 4],
        window_size=4,
    ),
    "ConvNeXt-v2": _hf(
        "ConvNextV2", _pixels(32), "ForImageClassification", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1]
    ),
    "MobileNetV1": _hf("MobileNetV1", _pixels(32), "ForImageClassification", depth_multiplier=0.25, min_depth=4),
    "EfficientNet": _hf(
        "EfficientNet",
        _pixels(32),
        "ForImageClassification",
        width_coefficient=0.25,
        depth_coefficient=0.3,
        image_size=32,
        hidden_dim=320,
    ),
    "RegNet": _hf(
        "RegNet",
        _pixels(32),
        "ForImageClassification",
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 24],
        depths=[1, 1, 1, 1],
        groups_width=4,
    ),
    "PoolFormer": _hf(
        "PoolFormer", _pixels(32), "ForImageClassification", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1]
    ),
    "SegFormer": _hf(
        "Segformer",
        _pixels(64),
        "ForSemanticSegmentation",
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=12,
    ),
    "CLIP text": _hf("CLIPText", _tokens, "Model", projection_dim=8, eos_token_id=30, **_TEXT),
    "wav2vec 2.0": _hf(
        "Wav2Vec2",
        lambda: {"input_values": torch.randn(2, 400)},
        "ForCTC",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=24,
        conv_dim=[8, 8],
        conv_kernel=[10, 3],
        conv_stride=[5, 2],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        vocab_size=12,
    ),
}
