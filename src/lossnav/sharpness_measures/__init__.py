"""How sharp a minimum is, by many definitions: each named, with its source and its uncertainty.

The package is not called by its verb, `lossnav.sharpness`: the first import of a submodule of that name would put the
module in the function's place.
"""

from __future__ import annotations

from lossnav.sharpness_measures.registry import KINDS, sharpness
from lossnav.sharpness_measures.result import Sharpness

__all__ = ["KINDS", "Sharpness", "sharpness"]
