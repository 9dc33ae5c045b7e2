"""PEFT adapters (such as LoRA): their parameters in a model, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lossnav.checkpoints.files import Stored
from lossnav.checkpoints.fitting import Match, match
from lossnav.errors import CheckpointMismatchError


def adapters_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the configurations of the PEFT adapters in a model, by their names."""
    found: dict[str, dict[str, Any]] = {}
    for module in model.modules():
        configs = vars(module).get("peft_config") or vars(module).get("_peft_config")
        if isinstance(configs, Mapping):
            found |= {str(name): config.to_dict() for name, config in configs.items() if hasattr(config, "to_dict")}
    return found


_OF_AN_ADAPTER = (  # settings that the values depend on
    "peft_type", "r", "lora_alpha", "alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
    "fan_in_fan_out",
)  # fmt: skip


def tensors_of(adapters: Mapping[str, Mapping[str, Any]], moving: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the moving tensors that belong to an adapter."""
    names = {name for name in moving if not adapters.keys().isdisjoint(name.split("."))}
    names |= {name for adapter, config in adapters.items() for name in _biases(moving, config, adapter)}
    return {name: tensor for name, tensor in moving.items() if name in names}


_WHICH_TENSORS = ("target_modules", "modules_to_save", "bias", "layers_to_transform", "trainable_token_indices")


def match_adapter(
    state: Stored,
    moving: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    adapters: Mapping[str, Mapping[str, Any]],
    what: str,
) -> Match:
    """Find an adapter's tensors in a model with such an adapter; files of peft lack the adapter's name."""
    assert state.adapter is not None
    differences = {}
    for name, config in adapters.items():
        mine = {**moving, **held}
        own = {n: tensor for n, tensor in mine.items() if name in n.split(".")}
        apart = [
            key
            for key in _OF_AN_ADAPTER
            if key in config and key in state.adapter and _text(config[key]) != _text(state.adapter[key])
        ]
        if apart or not own:
            differences[name] = ", ".join(f"{key} {state.adapter[key]!r} and not {config[key]!r}" for key in apart)
            continue
        own |= {n: moving[n] for n in _biases(moving, config, name)}
        if others := [n for n in moving if n not in own]:
            raise CheckpointMismatchError(
                f"{state.source} is an adapter, but {len(others):,} parameters of {what} move that are none of "
                f'its own ("{others[0]}"). Let the adapter move alone: params="*.{name}*".'
            )
        return _match_named(state, own, config, name, what)
    which = "; ".join(f"{name}: {words or 'no parameter'}" for name, words in differences.items())
    raise CheckpointMismatchError(
        f"{state.source} is another adapter than those of {what} ({which}), where its weights would have "
        f"another meaning. Load it with peft: peft.PeftModel.from_pretrained(model, {state.source!r})."
    )


def _match_named(state: Stored, own: Mapping[str, Tensor], config: Mapping[str, Any], name: str, what: str) -> Match:
    """Find the tensors of an adapter; if file and model have different ones, report the option that makes them."""
    try:
        return match(_as_in_a_model(state), own, {}, {}, what)
    except CheckpointMismatchError as error:
        assert state.adapter is not None
        apart = [
            f"{key}={state.adapter.get(key)!r} and that of the model with {key}={config.get(key)!r}"
            for key in _WHICH_TENSORS
            if _listed(config.get(key)) != _listed(state.adapter.get(key))
        ]
        if not apart:
            raise
        differing = str(error).partition(". ")[0]
        raise CheckpointMismatchError(
            f"{differing}. {state.source} was saved with {'; '.join(apart)} (its adapter {name}), so that the two do "
            "not hold the same tensors. Give both the same, or load it by peft: "
            f"peft.PeftModel.from_pretrained(model, {state.source!r})."
        ) from error


def _biases(moving: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> list[str]:
    """Return the biases that belong to an adapter: those of its layers ("lora_only"), or all of the network."""
    kind = config.get("bias", "none")
    if kind in (None, "none"):
        return []
    layers = {n.partition(".lora_")[0] for n in moving if ".lora_" in n and name in n.split(".")}
    biases = [n for n in moving if n.rpartition(".")[2] == "bias"]
    return (
        biases if kind == "all" else [n for n in biases if n.rpartition(".")[0].removesuffix(".base_layer") in layers]
    )


def _listed(value: Any) -> Any:
    """Return a value of a configuration in a form that can be compared, without the order of names."""
    if value is None or value in ("none", [], (), set()):
        return None
    return sorted(map(str, value)) if isinstance(value, list | tuple | set | frozenset) else str(value)


def _as_in_a_model(state: Stored) -> Stored:
    """Return the tensors with DoRA's magnitudes under the layer names that peft uses."""
    made = Stored(state, state.source, state.part)
    for name in [name for name in state if name.endswith("lora_magnitude_vector")]:
        made[f"{name}.weight"] = made.pop(name)
    return made


def _text(value: Any) -> str:
    """Return a value of a configuration, from JSON or from peft."""
    return str(getattr(value, "value", value))
