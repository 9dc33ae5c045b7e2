"""What a sharpness is: a number that says which definition it follows, how sure it is, and what it cost."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

Bounds = tuple[float, float]


class Invariance(NamedTuple):
    """Whether rescaling the weights leaves a measure as it is, and in words which rescaling does, or why none."""

    holds: bool
    words: str


class KindResult(NamedTuple):
    """What the function of one kind finds; the fields are those of a `Sharpness`."""

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
    """A sharpness, with its definition beside it. Printed, it says all of this.

    Attributes
    ----------
    kind : str
        Which definition, by its short name.
    value : float
        In units of the loss unless `definition` says otherwise. NaN where nothing was computed.
    error : float
        How sure it is, one number; what this number is stands in `uncertainty`. NaN where it cannot be known.
    interval : tuple of two float
        Where the truth lies: a 95 % interval of an average or a median, the bounds of an eigenvalue; of a maximum,
        which can only be bounded from below, the value and inf.
    uncertainty : str
        What `error` and `interval` are. None of them covers that the data is a sample.
    definition : str
        The formula in words, with the numbers used.
    source : str
        Paper and equation, and departures from it.
    scale_invariant : bool
        Whether it stays the same for weights that are another way to write the same function.
    invariance : str
        Under which rescaling, or why under none.
    samples : tuple of float
        What single starts, draws or directions gave, where it is made of such.
    settings : dict
        Values that JSON can hold: the options of the kind, seed, what was excluded, the loss at the centre,
        fingerprints of objective and centre.
    evaluations, gradients, products : int
        Losses, losses with their gradient, and Hessian-vector products that it took.
    passes : int
        How often it went over all the data for them; products may share a pass. Where BatchNorm statistics are made
        anew at every point, an evaluation takes two passes and a derivative three.
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
        """All of it as a dict of plain values; inf and NaN stay what they are."""
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
