"""A plan: the changes that make an evaluation faster, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

Precision = Literal["native", "float32", "tf32", "bfloat16", "float64"]
PRECISIONS: tuple[Precision, ...] = ("native", "float32", "tf32", "bfloat16", "float64")

# Largest relative difference of the loss from the plain path that a plan may show at a probe point. Reordered sums in
# float32 differ by 1e-7 to 1e-6; bfloat16 keeps 8 bits, and a deep network loses a few of them on the way.
TOLERANCES: dict[Precision, float] = {"native": 1e-5, "float32": 1e-5, "tf32": 1e-2, "bfloat16": 5e-2, "float64": 1e-3}

_DTYPES: dict[Precision, torch.dtype | None] = {
    "native": None,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Plan:
    """One way to evaluate an objective on a chart. With all fields at their defaults, it is the plain path.

    Attributes
    ----------
    precision : "native", "float32", "tf32", "bfloat16" or "float64"
        The precision in which the model computes; native is its own. The loss is computed in float32 or wider.
    batch_size : int or None
        Samples per pass through the model; None keeps the original batches.
    channels_last : bool
        Whether images and convolution weights have the memory format that oneDNN and cuDNN prefer.
    fold_batch_norm : bool
        Whether BatchNorm with frozen statistics is multiplied into the layer before it, at each point.
    amortize_first_layer : bool
        On an affine chart the first layer's response to the data is affine in the coordinates. If True, it is computed
        once for the centre and each direction, and then only added up.
    onednn_linear : bool
        Whether linear layers use oneDNN's kernel instead of MKL's.
    compiled : bool
        Whether `torch.compile` is applied, once, with the weights as inputs.
    fused : bool
        On the CPU: whether the whole model is one kernel, generated for its sizes and compiled in a second. A few
        samples go through all layers before the next ones start. It folds BatchNorm and needs no other layout, so only
        batch_size and amortize_first_layer can be combined with it.
    points : int
        Points of weight space that go through the model together (`torch.vmap` over the weights), for small models on
        a GPU.

    Examples
    --------
    >>> plan = Plan(batch_size=64, fold_batch_norm=True)
    >>> str(plan), plan.tolerance
    ('batches of 64, BatchNorm folded', 1e-05)
    """

    precision: Precision = "native"
    batch_size: int | None = None
    channels_last: bool = False
    fold_batch_norm: bool = False
    amortize_first_layer: bool = False
    onednn_linear: bool = False
    compiled: bool = False
    fused: bool = False
    points: int = 1

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that the model is converted to; None for its own."""
        return _DTYPES[self.precision]

    @property
    def tolerance(self) -> float:
        """Largest allowed relative difference of the loss from the plain path at a probe."""
        return TOLERANCES[self.precision]

    def describe(self) -> dict[str, Any]:
        """Return the fields that differ from the plain path."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Plan(), name)}

    def __str__(self) -> str:
        words = {
            "precision": self.precision,
            "batch_size": f"batches of {self.batch_size}",
            "channels_last": "channels-last",
            "fold_batch_norm": "BatchNorm folded",
            "amortize_first_layer": "first layer amortised",
            "onednn_linear": "oneDNN linear",
            "compiled": "compiled",
            "fused": "fused kernel",
            "points": f"{self.points} points at once",
        }
        return ", ".join(words[name] for name in self.describe()) or "plain"
