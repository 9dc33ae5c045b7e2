"""What is so of a planted picture, by plain torch and NumPy, and which sentences of its report are not.

Nothing here asks lossnav for a number: losses, gradients, Hessians and counts are computed from the model, the data and
the tensors of the directions themselves.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, torch.Tensor]

_OF_A_NETWORK = re.compile(
    r"\b(network|model|layers?|BatchNorm|ReLU|trained|Train "
    r"further|training|buffers?|weights)\b"
)


@dataclass
class Truth:
    """What is so of one picture; None where the case does not say.

    Attributes
    ----------
    loss : callable
        From a dict of float64 tensors to the mean loss, a scalar that autograd follows.
    center : dict of str to Tensor
        What moves, float64.
    directions : list of dict of str to Tensor
    losses : ndarray
        At the points of the surface, in its shape; nan where none was measured.
    rise : float
        Of these, where each coordinate is within a quarter of its reach: to which no constant adds anything.
    """

    center: Tensors = field(default_factory=dict)
    directions: list[Tensors] = field(default_factory=list)
    loss: Callable[[Tensors], torch.Tensor] | None = None
    losses: Array | None = None
    held: int = 0
    samples: int | None = None
    population: int | None = None
    is_function: bool = False
    closes_over_data: bool = False
    statistics: int | None = None
    own_statistics: int = 0
    buffers: int | None = None
    errors_seen: bool = True
    complete: bool = True
    depends_on_cut: bool | None = None
    rescalable: bool | None = None
    rise: float | None = None
    _derived: dict[str, Any] = field(default_factory=dict)

    @property
    def flat(self) -> torch.Tensor:
        """The centre as one vector."""
        return torch.cat([tensor.reshape(-1).double() for tensor in self.center.values()])

    def of_flat(self, flat: torch.Tensor) -> torch.Tensor:
        """The loss at a vector of parameters."""
        assert self.loss is not None
        parts = flat.split([tensor.numel() for tensor in self.center.values()])
        return self.loss({n: p.view(t.shape) for (n, t), p in zip(self.center.items(), parts, strict=True)})

    @property
    def level(self) -> float:
        """The loss at the centre."""
        return float(self.of_flat(self.flat))

    @property
    def gradient(self) -> Array:
        """At the centre."""
        if "gradient" not in self._derived:
            self._derived["gradient"] = torch.autograd.functional.jacobian(self.of_flat, self.flat).numpy()
        return np.asarray(self._derived["gradient"])

    @property
    def hessian(self) -> Array:
        """At the centre, dense."""
        if "hessian" not in self._derived:
            self._derived["hessian"] = torch.autograd.functional.hessian(self.of_flat, self.flat).numpy()
        return np.asarray(self._derived["hessian"])

    @property
    def basis(self) -> Array:
        """The directions as rows."""
        return np.stack([torch.cat([d[n].reshape(-1).double() for n in self.center]).numpy() for d in self.directions])

    @property
    def still(self) -> int:
        """Entries that are zero in every direction."""
        return int((self.basis == 0).all(0).sum())

    @property
    def is_stationary_minimum(self) -> bool:
        """Whether no step leads down worth speaking of, and no direction bends down."""
        values = np.linalg.eigvalsh(self.hessian)
        gain = float(self.gradient @ self.gradient) / (2 * max(values[-1], 1e-300))
        rise = abs(self.level) if self.rise is None else self.rise
        return gain <= 0.011 * rise and values[0] >= -0.011 * values[-1]


def false_sentences(report: Any, truth: Truth) -> list[str]:
    """What of a report is not so, a line each."""
    found = []
    for line in report.lines:
        found += [f"{line.check}: {what}" for what in _forms(line, truth)]
        check = _CHECKS.get(line.check)
        what = None if check is None else check(line, truth)
        if what:
            found.append(f"{line.check} ({line.level}): {what}: {line.said}")
    return found


def _forms(line: Any, truth: Truth) -> Iterator[str]:
    """What no sentence may be, whatever it is about."""
    words = f"{line.said} {line.do}"
    if re.search(r"\bnan\b", line.said):
        yield f"a number that is none: {line.said}"
    if re.search(r"(?<![\d,])0 of [\d,]+ points are not evaluated", line.said):
        yield f"nothing is missing: {line.said}"
    if line.level == "unknown" and not line.said.startswith("Not known, because "):
        yield f"no reason: {line.said}"
    if line.level == "ok" and re.search(r"not known|unknown|If the model|was not measured", line.said):
        yield f"ok of what was not looked at: {line.said}"
    if truth.is_function and (word := _OF_A_NETWORK.search(words)):
        yield f"a bare function has no {word.group()}: {words}"


# ---------------------------------------------------------------------- of the points


def _holes(line: Any, truth: Truth) -> str | None:
    if truth.losses is None or not truth.complete:
        return None
    holes = int((~np.isfinite(truth.losses)).sum())
    return None if (line.level == "ok") == (holes == 0) else f"{holes} are not finite"


def _unfinished(line: Any, truth: Truth) -> str | None:
    return None if (line.level == "warning") == (not truth.complete) else f"complete is {truth.complete}"


def _constant(line: Any, truth: Truth) -> str | None:
    if truth.losses is None:
        return None
    loss = truth.losses
    loss = np.where(np.isfinite(loss), loss, np.nan)
    rises = [np.nanmax(loss, i) - np.nanmin(loss, i) for i in range(loss.ndim) if np.isfinite(loss).any(i).all()]
    flat = any(float(rise.max()) == 0 for rise in rises)
    return None if (line.level == "warning") == flat else f"an axis is flat: {flat}"


def _ripples(line: Any, truth: Truth) -> str | None:
    if line.level == "ok" and not truth.errors_seen and line.values.get("local_minima"):
        return "no standard error is known"
    if truth.losses is None or line.level == "unknown":
        return None
    local_minima = _minima(truth.losses)
    return (
        None
        if bool(line.values.get("local_minima")) == (local_minima > 0)
        else f"there are {local_minima} local minima inside"
    )


def _minima(loss: Array) -> int:
    """Places inside the border that are lower than all around them; the lowest of all left out."""
    low = np.nanmin(loss)
    count = 0
    for place in itertools.product(*(range(1, n - 1) for n in loss.shape)):
        around = loss[tuple(slice(i - 1, i + 2) for i in place)].reshape(-1)
        beside = np.delete(around, len(around) // 2)
        count += bool(loss[place] > low and (beside > loss[place]).all())
    return count


def _precision(line: Any, truth: Truth) -> str | None:
    if line.level != "ok" or line.values["error"] > 0 or truth.loss is None or truth.level == 0:
        return None
    return "no arithmetic is exact"


# ---------------------------------------------------------------------- of the directions


def _still(line: Any, truth: Truth) -> str | None:
    if not truth.directions or line.level == "unknown":
        return None
    still = truth.still
    if (line.level == "ok") != (still + truth.held == 0):
        return f"{still} entries stay, {truth.held} are held"
    said = line.values.get("still")
    return None if said is None or said == still else f"{still} entries stay"


def _angles(line: Any, truth: Truth) -> str | None:
    if not truth.directions or line.level == "unknown":
        return None
    basis = truth.basis / np.linalg.norm(truth.basis, axis=1, keepdims=True)
    cosines = np.abs(basis @ basis.T - np.eye(len(basis)))
    largest = float(cosines.max())
    if abs(abs(float(line.values["cosine"])) - largest) > 1e-3:
        return f"the cosine is {largest:.4f}"
    return None if (line.level == "ok") == (largest <= 0.1) else f"the cosine is {largest:.4f}"


def _lengths(line: Any, truth: Truth) -> str | None:
    if not truth.directions or line.level == "unknown":
        return None
    lengths = np.linalg.norm(truth.basis, axis=1)
    ratio = float(lengths.max() / lengths.min())
    return None if (line.level == "ok") == (ratio <= 2) else f"their ratio is {ratio:.3g}"


def _radial(line: Any, truth: Truth) -> str | None:
    if not truth.directions or line.level == "unknown":
        return None
    flat = truth.flat.numpy()
    cosines = truth.basis @ flat / (np.linalg.norm(truth.basis, axis=1) * np.linalg.norm(flat))
    largest = float(np.abs(cosines).max())
    return None if (line.level == "ok") == (largest <= 0.5) else f"the cosine is {largest:.3f}"


def _scale(line: Any, truth: Truth) -> str | None:
    if truth.rescalable is None:
        return None
    if line.level == "warning" and not truth.rescalable:
        return "no rescaling leaves this loss the same"
    claims = "changes the loss in each" in line.said or "no two layers" in line.said
    return "a rescaling leaves this loss the same" if claims and truth.rescalable else None


# ---------------------------------------------------------------------- of the objective


def _batch_norm(line: Any, truth: Truth) -> str | None:
    if truth.is_function:
        return "nothing is known of its layers"
    if truth.statistics is None or line.level == "unknown":
        return None
    count = truth.statistics + truth.own_statistics
    if "no BatchNorm" in line.said or "no layer" in line.said:
        return f"{count} layers have statistics" if count else None
    return None if count else "no layer has statistics"


def _buffers(line: Any, truth: Truth) -> str | None:
    said = re.search(r"The model's ([\d,]+) buffers? keeps? ", line.said)
    if truth.buffers is None:
        return None
    if "no buffers" in line.said:
        return f"there are {truth.buffers}" if truth.buffers else None
    return None if said is None or int(said.group(1)) == truth.buffers else f"there are {truth.buffers}"


def _data(line: Any, truth: Truth) -> str | None:
    if truth.closes_over_data and line.level == "ok":
        return "the function holds samples of its own"
    said = re.search(r"All ([\d,]+) samples", line.said)
    if said and (int(said.group(1).replace(",", "")) != truth.samples or truth.population):
        return f"there are {truth.samples} of {truth.population}"
    return None


def _noise(line: Any, truth: Truth) -> str | None:
    if truth.closes_over_data and line.level == "ok":
        return "the function holds samples of its own"
    return "no standard error is known" if line.level in ("ok", "warning") and not truth.errors_seen else None


def _batches(line: Any, truth: Truth) -> str | None:
    if truth.depends_on_cut is None or line.level == "unknown":
        return None
    return None if (line.level == "warning") == truth.depends_on_cut else f"depends: {truth.depends_on_cut}"


# ---------------------------------------------------------------------- of the centre


def _minimum(line: Any, truth: Truth) -> str | None:
    if truth.loss is None:
        return None
    if line.level == "ok" and not truth.is_stationary_minimum:
        return "it is not a minimum"
    if line.level == "warning" and truth.is_stationary_minimum:
        return "it is a minimum"
    return None


def _saddle(line: Any, truth: Truth) -> str | None:
    if truth.loss is None or line.level == "unknown" or line.values.get("lambda_min") is None:
        return None
    values = np.linalg.eigvalsh(truth.hessian)
    within = np.linalg.eigvalsh(truth.basis @ truth.hessian @ truth.basis.T)
    if "no negative eigenvalue" in line.said:
        return None if values[0] >= -0.011 * values[-1] else f"the smallest is {values[0]:.3g}"
    if line.level == "warning" and (values[0] >= 0 or within[0] < -0.1 * abs(within[-1])):
        return f"eigenvalues {values[0]:.3g} to {values[-1]:.3g}, of the slice {within[0]:.3g} to {within[-1]:.3g}"
    return None if values[0] < 0 else f"the smallest is {values[0]:.3g}"


def _descent(line: Any, truth: Truth) -> str | None:
    if truth.loss is None or line.level == "unknown" or "out_of_plane" not in line.values:
        return None
    rows = truth.basis
    inside = rows.T @ np.linalg.lstsq(rows @ rows.T, rows @ truth.gradient, rcond=None)[0]
    out, said = float(np.linalg.norm(truth.gradient - inside)), float(line.values["out_of_plane"])
    return None if abs(out - said) <= 1e-3 * np.linalg.norm(truth.gradient) + 1e-6 else f"it is {out:.3g}"


def _mean(line: Any, truth: Truth) -> str | None:
    if truth.loss is None or line.level == "unknown" or "trace" not in line.values:
        return None
    bends = np.diagonal(truth.basis @ truth.hessian @ truth.basis.T)
    off = np.abs(np.asarray(line.values["curvature"]) - bends).max()
    return None if off <= 0.01 * np.abs(bends).max() + 1e-6 else f"it bends by {bends.tolist()}"


_CHECKS: dict[str, Callable[[Any, Truth], str | None]] = {
    "holes": _holes, "unfinished": _unfinished, "constant": _constant, "ripples": _ripples, "precision": _precision,
    "held still": _still, "angles": _angles, "lengths": _lengths, "radial": _radial, "scale": _scale,
    "batch norm": _batch_norm, "buffers": _buffers, "data": _data, "noise": _noise, "batches": _batches,
    "minimum": _minimum, "saddle": _saddle, "descent": _descent, "mean curvature": _mean,
}  # fmt: skip
