"""The result of a measurement of sharpness: value, definition, uncertainty and cost."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

Bounds = tuple[float, float]


class Invariance(NamedTuple):
    """Whether a measure is invariant under rescaling of the weights, and a description."""

    holds: bool
    words: str


class KindResult(NamedTuple):
    """The result of the function of a kind; the fields are those of `Sharpness`."""

    value: float
    error: float
    interval: Bounds
    uncertainty: str
    definition: str
    source: str
    invariance: Invariance
    samples: tuple[float, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Sharpness:
    """A sharpness with its definition; printing it shows all fields.

    Attributes
    ----------
    kind : str
        Short name of the definition.
    value : float
        In units of the loss unless `definition` says otherwise. NaN if nothing was computed.
    error : float
        Error of the value, as described in `uncertainty`. NaN if unknown.
    interval : tuple of two float
        A 95 % interval of an average or a median, or bounds of an eigenvalue; for a maximum, which is only bounded from
        below, the value and inf.
    uncertainty : str
        Description of `error` and `interval`. They do not include that the data is a sample.
    definition : str
        The formula, with the numbers used.
    source : str
        Paper and equation, and departures from it.
    scale_invariant : bool
        Whether it is the same for rescaled weights that compute the same function.
    invariance : str
        The rescaling under which it is invariant, or why it is not.
    samples : tuple of float
        Results of single starts, draws or directions, if there are any.
    settings : dict
        As JSON values: options of the kind, seed, excluded parameters, loss at the centre, fingerprints of objective
        and centre.
    evaluations, gradients, products : int
        Numbers of losses, losses with gradient, and Hessian-vector products.
    passes : int
        Number of passes over the data; products may share a pass. If BatchNorm statistics are recomputed at every
        point, an evaluation takes two passes and a derivative three.
    """

    kind: str
    value: float
    error: float
    interval: Bounds
    uncertainty: str
    definition: str
    source: str
    scale_invariant: bool
    invariance: str
    samples: tuple[float, ...]
    settings: dict[str, Any]
    evaluations: int
    gradients: int
    products: int
    passes: int

    def __float__(self) -> float:
        return self.value

    def describe(self) -> dict[str, Any]:
        """Return all fields as a dict of plain values; inf and NaN stay floats."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        error = "" if math.isnan(self.error) else f" (error {self.error:.2g})"
        lines = {
            "sharpness": self.kind,
            "value": f"{self.value:.6g}{error}",
            "interval": f"[{self.interval[0]:.6g}, {self.interval[1]:.6g}]",
            "uncertainty": self.uncertainty,
            "definition": self.definition,
            "source": self.source,
            "invariant": f"{'yes' if self.scale_invariant else 'no'}: {self.invariance}",
            "cost": f"{self.passes:,} passes over the data: {self.evaluations:,} losses, {self.gradients:,} gradients, "
            f"{self.products:,} Hessian-vector products",
        }
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {said}" for name, said in lines.items())
