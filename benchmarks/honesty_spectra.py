"""Whether the errors of curvature hold: eigenvalues, traces, densities and diagonals of networks drawn from a seed.

The truth is a dense Hessian (or Gauss-Newton matrix) of the network written as a formula, by plain autograd in float64.
*Covered*: both ends lie within the stated errors; the truth lies in the 95 % interval of a trace; an entry of a
diagonal, or a value of a density, lies within Student's t times its standard error. Entries of one draw share their
random vectors: a draw counts by the share of its entries that are covered. *Warned*: a warning of lossnav's own, or a
refusal.

A case in which everything is usual is benign: there a warning is false.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import lossnav as ln

Values = dict[str, Tensor]
_CONFIDENCE = 0.95


class Case(NamedTuple):
    """An objective, and its dense matrix at the objective's centre."""

    objective: ln.Objective
    matrix: Tensor
    kind: str = "hessian"

    @property
    def operator(self) -> ln.curvature.Operator[ln.params.Params]:
        """The matrix by its products."""
        return ln.curvature.OPERATORS[self.kind](self.objective)


def rows(seed: int, draws: int) -> Iterator[dict[str, Any]]:
    """Rows of every case and number: case, benign, draws, covered, warned, honest, each a fraction of the draws."""
    for case, (make, benign) in CASES.items():
        asked = {name: number for name, number in NUMBERS.items() if name not in _OF_SOME or case in _OF_SOME[name]}
        counts = {name: [0.0, 0, 0.0] for name in asked}
        for draw in range(draws):
            drawn = make(np.random.default_rng([seed, draw]))
            for name, number in asked.items():
                covered, warned = _asked(number, drawn, draw)
                for i, holds in enumerate((covered, warned, max(covered, warned))):
                    counts[name][i] += holds
        for name, sums in counts.items():
            shares = {what: total / draws for what, total in zip(("covered", "warned", "honest"), sums, strict=True)}
            yield {"case": f"{name}: {case}", "benign": benign, "draws": draws, **shares}


def _asked(number: Callable[[Case, int], float], case: Case, seed: int) -> tuple[float, bool]:
    """Whether what is stated covers the truth, and whether something was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            covered = number(case, seed)
        except ln.LossnavError:
            return 0.0, True
    return covered, any(isinstance(warning.message, ln.errors.LossnavWarning) for warning in said)


# ---------------------------------------------------------------------- numbers with errors


def _ends(case: Case, seed: int) -> bool:
    found = ln.curvature.top_eigenpairs(case.operator, which="both", seed=seed)
    truth = torch.linalg.eigvalsh(case.matrix).numpy()
    return bool((np.abs(found.values - truth[[0, -1]]) <= found.errors).all())


def _trace(method: str, products: int) -> Callable[[Case, int], bool]:
    def holds(case: Case, seed: int) -> bool:
        found = ln.curvature.trace(case.operator, products=products, method=method, seed=seed)  # type: ignore[arg-type]
        low, high = found.interval(_CONFIDENCE)
        return low <= float(case.matrix.trace()) <= high

    return holds


def _diagonal(case: Case, seed: int) -> float:
    found = ln.curvature.diagonal(case.operator, products=20, seed=seed)
    value, error = (torch.cat([t.double().reshape(-1) for t in part.values()]) for part in (found.value, found.error))
    within = (value - case.matrix.diagonal()).abs() <= stdtrit(19, 0.5 + _CONFIDENCE / 2) * error
    return float(within.double().mean())


def _density(case: Case, seed: int) -> float:
    found = ln.curvature.spectral_density(case.operator, probes=5, steps=12, seed=seed)
    truth = torch.linalg.eigvalsh(case.matrix).numpy()
    kernel = np.exp(-0.5 * ((found.values[:, None] - truth) / found.width) ** 2) / (found.width * np.sqrt(2 * np.pi))
    exact = kernel.mean(1)
    off = np.abs(found.density - exact) - stdtrit(4, 0.5 + _CONFIDENCE / 2) * found.error
    return float((off <= 1e-3 * exact.max()).mean())  # less than that no picture shows


def _mean(case: Case, seed: int) -> bool:
    found = ln.curvature.spectral_density(case.operator, probes=5, steps=2, seed=seed).mean
    low, high = found.interval(_CONFIDENCE)
    return low <= float(case.matrix.trace()) / len(case.matrix) <= high


QUADRATIC = ("outliers over a bulk", "clusters at both ends", "few parameters")
NUMBERS: dict[str, Callable[[Case, int], float]] = {
    "ends": _ends,
    "trace, Hutch++": _trace("hutch++", 15),
    "trace, Hutchinson": _trace("hutchinson", 10),
    "diagonal": _diagonal,
    "density": _density,
    "mean": _mean,
}
_OF_SOME = {  # what takes long, or of other cases says nothing new
    "trace, Hutchinson": {"tanh, cross-entropy", "Gauss-Newton of GELU", *QUADRATIC},
    "density": {"tanh, cross-entropy", *QUADRATIC},
    "mean": {"tanh, cross-entropy", "Gauss-Newton of GELU", *QUADRATIC},
}


# ---------------------------------------------------------------------- cases


def _dense(loss: Callable[[Values], Tensor], point: Values) -> Tensor:
    sizes = [tensor.numel() for tensor in point.values()]

    def of_flat(flat: Tensor) -> Tensor:
        parts = torch.split(flat, sizes)
        return loss({name: part.view(point[name].shape) for name, part in zip(point, parts, strict=True)})

    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in point.values()])
    made: Tensor = torch.autograd.functional.hessian(of_flat, flat)  # type: ignore[no-untyped-call]
    return made


def _network(
    rng: np.random.Generator,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
    *,
    loss: str = "cross_entropy",
    scale: float = 1.0,
    size: float = 1.0,
    normed: int | None = -2,
    kind: str = "hessian",
) -> Case:
    """Two layers: activations, size of the weights, a factor on the loss, weight_norm along a dim of the first."""
    torch.manual_seed(int(rng.integers(2**31)))
    inputs, hidden, classes, n = (int(rng.integers(low, high)) for low, high in ((2, 6), (3, 9), (2, 5), (8, 40)))
    first = nn.Linear(inputs, hidden)
    first = first if normed == -2 else weight_norm(first, dim=normed)  # type: ignore[arg-type]
    model = nn.Sequential(first, _Activation(activation), nn.Linear(hidden, classes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    x = torch.randn(n, inputs)
    y = torch.randint(0, classes, (n,)) if loss == "cross_entropy" else torch.randn(n, classes)
    of_outputs = F.cross_entropy if loss == "cross_entropy" else F.mse_loss

    def scaled(outputs: Tensor, targets: Tensor) -> Tensor:
        return scale * of_outputs(outputs, targets)

    def outputs(p: Values) -> Tensor:
        if normed == -2:
            weight = p["0.weight"]
        else:
            g, v = (p[f"0.parametrizations.weight.original{i}"] for i in (0, 1))
            over = [i for i in (0, 1) if i != normed]
            weight = g * v / (v**2).sum(over, keepdim=True).sqrt()
        return activation(x.double() @ weight.T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]

    targets = y if loss == "cross_entropy" else y.double()
    objective = ln.Objective(model, scaled, (x, y))
    if kind == "hessian":
        return Case(objective, _dense(lambda p: scaled(outputs(p), targets), objective.params))
    point = objective.params
    shapes = [(name, tensor.shape) for name, tensor in point.items()]
    flat = torch.cat([tensor.detach().double().reshape(-1) for tensor in point.values()])

    def of_flat(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [shape.numel() for _, shape in shapes])
        return outputs({name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)})

    slopes: Tensor = torch.autograd.functional.jacobian(of_flat, flat)  # type: ignore[no-untyped-call]
    J = slopes.reshape(-1, len(flat))
    z = of_flat(flat)
    bent: Any = torch.autograd.functional.hessian  # untyped
    H: Tensor = bent(lambda w: scaled(w.view(z.shape), targets), z.reshape(-1))
    return Case(objective, J.T @ H @ J, kind)


class _Activation(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _quadratic(values: Callable[[np.random.Generator, int], np.ndarray]) -> Callable[[np.random.Generator], Case]:
    """A quadratic form with these eigenvalues and random eigenvectors, in float32."""

    def make(rng: np.random.Generator) -> Case:
        d = int(rng.integers(20, 80))
        q, _ = np.linalg.qr(rng.normal(size=(d, d)))
        matrix = torch.from_numpy(q * values(rng, d) @ q.T).float()
        matrix = (matrix + matrix.T) / 2
        start = torch.from_numpy(rng.normal(size=d)).float()
        half = lambda p: 0.5 * p["x"] @ matrix.to(p["x"].dtype) @ p["x"]  # noqa: E731
        return Case(ln.Objective.from_function(half, {"x": start}), matrix.double())

    return make


def _few(rng: np.random.Generator) -> Case:
    """Two to six parameters: probes of signs see few of the off-diagonal sums."""
    d = int(rng.integers(2, 7))
    matrix = torch.from_numpy(rng.normal(size=(d, d)))
    matrix = matrix + matrix.T
    half = lambda p: 0.5 * p["x"] @ matrix @ p["x"]  # noqa: E731
    return Case(ln.Objective.from_function(half, {"x": torch.from_numpy(rng.normal(size=d))}), matrix)


class _Detached(torch.autograd.Function):
    """A sine whose backward pass has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        made: Tensor = g * ctx.saved_tensors[0].detach().cos()
        return made


def _wrong_twice(rng: np.random.Generator) -> Case:
    """A function of the user's own whose second derivative torch takes for zero."""
    state = rng.bit_generator.state
    truth = _network(rng, torch.sin)
    rng.bit_generator.state = state
    return Case(_network(rng, _own_sine).objective, truth.matrix)


def _own_sine(x: Tensor) -> Tensor:
    """In float64, which only the truth is computed in, torch's own."""
    made: Tensor = _Detached.apply(x)  # type: ignore[no-untyped-call]
    return made


def _clustered(rng: np.random.Generator, d: int) -> np.ndarray:
    return np.concatenate([np.full(d // 2, 1.0), np.full(d - d // 2, -1.0)]) + 1e-4 * rng.normal(size=d)


def _outliers(rng: np.random.Generator, d: int) -> np.ndarray:
    return np.concatenate([10 ** rng.uniform(0, 2, 3), 0.01 * rng.normal(size=d - 3)])


CASES: dict[str, tuple[Callable[[np.random.Generator], Case], bool]] = {
    "tanh, cross-entropy": (_network, True),
    "ReLU, squared error": (lambda rng: _network(rng, torch.relu, loss="mse"), True),
    "Gauss-Newton of GELU": (lambda rng: _network(rng, F.gelu, kind="gauss-newton"), True),
    "weight_norm along a dim": (lambda rng: _network(rng, normed=[0, 1, None][int(rng.integers(3))]), True),
    "outliers over a bulk": (_quadratic(_outliers), True),
    "clusters at both ends": (_quadratic(_clustered), True),
    "nearly zero or huge": (lambda rng: _network(rng, scale=10 ** (rng.choice([-1, 1]) * rng.uniform(10, 20))), True),
    "saturated, large weights": (lambda rng: _network(rng, size=float(rng.uniform(5, 20))), False),
    "few parameters": (_few, True),
    "a wrong second derivative": (_wrong_twice, False),
}
