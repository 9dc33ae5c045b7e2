"""Rules of operators: how the axes of what goes in and of what comes out are permuted together."""

from __future__ import annotations

from lossnav.symmetry.rules import elementwise, layers, shapes, sums  # noqa: F401 - the rules register themselves
from lossnav.symmetry.rules.registry import RULES, Labels, OperatorCall, Rule, rule

__all__ = ["RULES", "Labels", "OperatorCall", "Rule", "rule"]
