"""How sharp a minimum is, by many definitions: each named, with its source and its uncertainty.

The package is not called by its verb, `lossnav.sharpness`: the first import of a submodule of that name would put the
module in the function's place.
"""

from __future__ import annotations

# The kinds register themselves, in the order in which they are listed.
# isort: off
from lossnav.sharpness_measures import keskar, sam, noise, spectral, basin_width  # noqa: F401
# isort: on

from lossnav.sharpness_measures.measure import sharpness
from lossnav.sharpness_measures.neighborhood import Neighborhood
from lossnav.sharpness_measures.registry import KINDS, SharpnessKind, register, table
from lossnav.sharpness_measures.result import Invariance, KindResult, Sharpness

__all__ = [
    "KINDS",
    "Invariance",
    "KindResult",
    "Neighborhood",
    "Sharpness",
    "SharpnessKind",
    "register",
    "sharpness",
    "table",
]
