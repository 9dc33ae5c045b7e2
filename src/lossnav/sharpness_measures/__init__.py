"""Definitions of the sharpness of a minimum, each with its source and its uncertainty.

The package does not have the name of its function, `lossnav.sharpness`: importing a submodule of that name would
replace the function by the module.
"""

from __future__ import annotations

# The kinds register themselves, in the order of the table.
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
