"""Symmetries of any module, found and proved, and networks aligned by them."""

from __future__ import annotations

from lossnav.symmetry.alignment import Alignment, align
from lossnav.symmetry.finding import Symmetries, symmetries
from lossnav.symmetry.groups import Action, PermutationGroup

__all__ = ["Action", "Alignment", "PermutationGroup", "Symmetries", "align", "symmetries"]
