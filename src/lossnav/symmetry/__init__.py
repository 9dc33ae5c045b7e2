"""Symmetries of any module, found and proved, and networks aligned by them."""

from __future__ import annotations

from lossnav.symmetry.alignment import Alignment, align
from lossnav.symmetry.finding import Symmetries, symmetries
from lossnav.symmetry.groups import Action, PermutationGroup
from lossnav.symmetry.repair import Repair, RepairedPoint
from lossnav.symmetry.repair_data import RepairData

__all__ = [
    "Action",
    "Alignment",
    "PermutationGroup",
    "Repair",
    "RepairData",
    "RepairedPoint",
    "Symmetries",
    "align",
    "symmetries",
]
