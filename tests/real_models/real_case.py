"""What a case of the table is, and how it is held against plain torch.

A case is a model, a loss and data as a user has them, and beside them the same corpus loss written by hand: a loop
over the data in plain torch, by the loss's own definition, that knows nothing of lossnav.
"""

from __future__ import annotations

import copy
import importlib.util
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import lossnav as ln

ALPHAS = (0.0, 0.1, -0.3, 1.0)  # the centre and three displaced points


@dataclass
class Case:
    """One model with its loss and data, and the truth about it.

    Attributes
    ----------
    model, loss, data
        As they are given to `ln.Objective`.
    plain : callable
        ``plain(model, data)``: the corpus loss as a scalar on the graph, by a loop of its own.
    accuracy : callable, optional
        ``accuracy(model, data)``: a fraction, by a loop of its own; the objective then has ``metrics=["accuracy"]``.
    options : dict
        Further arguments of `ln.Objective`.
    objective : callable, optional
        ``objective(case)`` where it is not made by `ln.Objective(model, loss, data, **options)`.
    differentiable : bool
        Whether the gradient is compared too.
    tuned : bool
        Whether a plan chosen by the clock is tried as well.
    warns : type, optional
        What the objective has to warn of when it is made.
    """

    model: nn.Module
    loss: Any
    data: Any
    plain: Callable[[Any, Any], Tensor]
    accuracy: Callable[[Any, Any], float] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    objective: Callable[[Case], ln.Objective] | None = None
    differentiable: bool = True
    tuned: bool = False
    warns: type[Warning] | None = None

    def make(self) -> ln.Objective:
        """The objective of this case."""
        if self.objective is not None:
            return self.objective(self)
        metrics = {"metrics": ["accuracy"]} if self.accuracy else {}
        return ln.Objective(self.model, self.loss, self.data, progress=False, **{**metrics, **self.options})


@dataclass(frozen=True)
class Entry:
    """A row of the table: how a case is built, and what the documentation says of it."""

    name: str
    family: str
    model: str
    loss: str
    batches: str
    needs: str
    build: Callable[[int], Case]


TABLE: dict[str, Entry] = {}


def case(
    name: str, family: str, model: str, loss: str, batches: str = "tensors", needs: str = ""
) -> Callable[[Callable[[int], Case]], Callable[[int], Case]]:
    """Enter a builder ``build(seed) -> Case`` into the table."""

    def enter(build: Callable[[int], Case]) -> Callable[[int], Case]:
        assert name not in TABLE, name
        TABLE[name] = Entry(name, family, model, loss, batches, needs, build)
        return build

    return enter


def missing(entry: Entry) -> str:
    """The packages that a case needs and that are not there."""
    return ", ".join(name for name in entry.needs.split() if importlib.util.find_spec(name) is None)


# ---------------------------------------------------------------------- making


def stir(model: nn.Module, seed: int, scale: float = 0.05) -> nn.Module:
    """Add noise to every weight, so that none is zero or one by initialisation; the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(scale * noise.to(parameter.dtype))
    return model.eval()


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(seed: int, high: int, *shape: int) -> Tensor:
    """Whole numbers below `high` of a seed."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global random numbers from a seed, the state restored afterwards: for models made or called at random."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def cuts(data: Any, size: int) -> Iterator[Any]:
    """Consecutive parts of tensors: a tuple of them, or a dict."""
    parts = list(data.values()) if isinstance(data, Mapping) else list(data)
    for start in range(0, len(parts[0]), size):
        piece = [part[start : start + size] for part in parts]
        yield dict(zip(data, piece, strict=True)) if isinstance(data, Mapping) else tuple(piece)


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] by its definition; classes along the last axis."""
    shifted = logits - logits.max(-1, keepdim=True).values
    return shifted.exp().sum(-1).log() - shifted.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


# ---------------------------------------------------------------------- the truth


def changed(value: Any, change: Callable[[Tensor], Tensor], seen: dict[int, Any] | None = None) -> Any:
    """The same nested value, objects with attributes included, with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        return PackedSequence(change(value.data), *value[1:])
    if isinstance(value, Mapping):
        return {key: changed(part, change) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(changed(part, change) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(changed(part, change) for part in value)
    if hasattr(value, "__dict__") and not isinstance(value, type | torch.Generator) and not callable(value):
        other = copy.copy(value)
        for key, part in vars(value).items():
            other.__dict__[key] = changed(part, change)
        return other
    return value


def to_double(tensor: Tensor) -> Tensor:
    """In double precision, real or complex; whole numbers as they are."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def in_double(model: nn.Module) -> nn.Module:
    """A copy of a model in double precision, complex parameters included."""
    model = displaced(model, {})
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_complex():
                module._parameters[name] = nn.Parameter(to_double(parameter.data))
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # torch's grouped product of matrices knows no float64
    return model.double()


def displaced(model: nn.Module, params: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy of a model with these weights loaded, its buffers as they are."""
    held = (value for module in model.modules() for value in vars(module).values())
    computed = (value for value in held if isinstance(value, Tensor) and not value.is_leaf)  # of the old weight_norm
    model = copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
    result = model.load_state_dict(dict(params), strict=False)
    assert not result.unexpected_keys
    return model


def rounding(single: float, double: float) -> float:
    """The relative difference that is allowed: 1e-6, or 4 times what float32 differs from float64 in plain torch."""
    return max(1e-6, 4 * abs(single - double) / max(abs(double), 1e-12))


# ---------------------------------------------------------------------- what must not change


def state_of(case: Case) -> dict[str, Any]:
    """Everything of the user's and of the world's that an evaluation might have touched, as values to compare."""
    return {
        "model": _of_module(case.model),
        "data": _of_value(case.data),
        "loss": _of_module(case.loss) if isinstance(case.loss, nn.Module) else _of_value(case.loss),
        "python": random.getstate(),
        "numpy": repr(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "settings": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


def _of_tensor(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    detached = tensor.detach()
    if detached.is_sparse:
        detached = detached.to_dense()
    bits = detached.contiguous().reshape(-1).view(torch.uint8) if detached.numel() else detached
    of_memory = tensor.data_ptr(), tensor._version, tensor.requires_grad
    return tensor.dtype, tuple(tensor.shape), of_memory, bits.numpy().tobytes()


def _of_module(module: nn.Module) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        kept[f"parameter {name}"] = (_of_tensor(parameter), parameter.requires_grad, id(grad), _of_tensor(grad))
    for name, buffer in module.named_buffers():
        kept[f"buffer {name}"] = _of_tensor(buffer)
    for name, part in module.named_modules():
        hooks = [(key, list(value)) for key, value in vars(part).items() if "hooks" in key and isinstance(value, dict)]
        held = {key: _of_tensor(value) for key, value in vars(part).items() if isinstance(value, Tensor)}
        kept[f"module {name}"] = (part.training, hooks, held, sorted(vars(part)))
    return kept


def _of_value(value: Any) -> list[Any]:
    """Every tensor, array, number and word inside a value, in order."""
    found: list[Any] = []

    def look(part: Any, depth: int) -> None:
        if isinstance(part, Tensor):
            found.append(_of_tensor(part))
        elif isinstance(part, np.ndarray):
            found.append((part.dtype.str, part.shape, part.tobytes()))
        elif isinstance(part, torch.Generator):
            found.append(part.get_state().numpy().tobytes())
        elif isinstance(part, Mapping):
            for key, inner in part.items():
                found.append(key)
                look(inner, depth + 1)
        elif isinstance(part, list | tuple):
            for inner in part:
                look(inner, depth + 1)
        elif isinstance(part, str | bytes | int | float | bool | None):
            found.append(part)
        elif hasattr(part, "__dict__") and depth < 6:
            for key, inner in sorted(vars(part).items()):
                if not key.startswith("_DataLoader__") and key != "_iterator":
                    found.append(key)
                    look(inner, depth + 1)

    look(value, 0)
    return found
