"""The numerical error of the losses of a picture: from the dtype, from the plan's check, or against float64."""

from __future__ import annotations

import numpy as np

from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-9, "float16": 2.0**-11}


def precision_of(subject: Subject) -> str | None:
    """Return the precision of the computation: that of the engine, or else the dtype of the weights."""
    dtype, asked = subject.objective.get("dtype"), subject.attrs.get("engine", {}).get("precision", "native")
    precision = dtype if asked in ("native", None) else asked
    return None if precision is None else str(precision)


def arithmetic(subject: Subject) -> tuple[float, str] | None:
    """Return the numerical error of the loss, and how it is known; None if the precision is unknown."""
    engine, measured = subject.attrs.get("engine", {}), subject.facts.get("rounding", {})
    precision = precision_of(subject)
    if precision not in UNITS or not len(subject.losses):
        return None
    level = float(np.abs(subject.losses[subject.middle]).max())
    plan_error = float(engine["plan_error"]) if "plan_error" in engine else None
    if measured.get("error") is not None and precision != "float64":  # which is not compared with anything wider
        return float(measured["error"]), f"compared with float64 at {measured['points']} points"
    if plan_error is not None and precision != subject.objective.get("dtype"):
        return plan_error * level, f"the plan's largest at its test points, {plan_error:.1g} of the loss"
    error, how = UNITS[precision] * thresholds.ROUNDINGS * level, f"estimated from the digits of {precision}"
    if plan_error is not None and plan_error * level > error:
        error, how = plan_error * level, f"the plan's largest at its test points, {plan_error:.1g} of the loss"
    return error, how


def rounding(subject: Subject) -> float:
    """Return a bound of the numerical error of a difference of two losses, from what is known without measuring.

    An error that was measured against float64 is that at a few points, and may be zero by chance; so it only raises the
    bound. An unknown precision counts as float32.
    """
    if not len(subject.losses):
        return 0.0
    level = float(np.abs(subject.losses[subject.middle]).max())
    known = arithmetic(subject)
    by_digits = UNITS.get(precision_of(subject) or "", UNITS["float32"]) * thresholds.ROUNDINGS * level
    return 2 * max(by_digits, 0.0 if known is None else known[0])
