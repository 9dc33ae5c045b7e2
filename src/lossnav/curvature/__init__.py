"""Curvature of the loss: Hessian-vector products, the ends of the spectrum, and both at every point of a chart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lossnav.curvature.derivatives import Hessian, gradient
from lossnav.curvature.eigen import Eigenpairs, top_eigenpairs

if TYPE_CHECKING:
    from lossnav.curvature.chart import on_chart

__all__ = ["Eigenpairs", "Hessian", "gradient", "on_chart", "top_eigenpairs"]


def __getattr__(name: str) -> Any:
    if name == "on_chart":  # it knows surfaces, which the rest does without
        from lossnav.curvature.chart import on_chart

        return on_chart
    raise AttributeError(f"module 'lossnav.curvature' has no attribute {name!r}")
