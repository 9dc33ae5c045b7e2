"""Curvature of the loss: products with Hessian and Gauss-Newton matrix, their spectra, and both ends on a chart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lossnav.curvature.density import SpectralDensity, spectral_density
from lossnav.curvature.derivatives import Hessian, gradient
from lossnav.curvature.diagonal import Diagonal, diagonal
from lossnav.curvature.eigen import Eigenpairs, top_eigenpairs
from lossnav.curvature.gauss_newton import GaussNewton
from lossnav.curvature.trace import Estimate, trace

if TYPE_CHECKING:
    from lossnav.curvature.chart import on_chart
    from lossnav.curvature.spectra import spectrum
    from lossnav.groups import open_spectrum

__all__ = [
    "Diagonal",
    "Eigenpairs",
    "Estimate",
    "GaussNewton",
    "Hessian",
    "SpectralDensity",
    "diagonal",
    "gradient",
    "on_chart",
    "open_spectrum",
    "spectral_density",
    "spectrum",
    "top_eigenpairs",
    "trace",
]


def __getattr__(name: str) -> Any:  # of what knows xarray, which the rest does without
    if name == "on_chart":
        from lossnav.curvature.chart import on_chart

        return on_chart
    if name == "spectrum":
        from lossnav.curvature.spectra import spectrum

        return spectrum
    if name == "open_spectrum":
        from lossnav.groups import open_spectrum

        return open_spectrum
    raise AttributeError(f"module 'lossnav.curvature' has no attribute {name!r}")
