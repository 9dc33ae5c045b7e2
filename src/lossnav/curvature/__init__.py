"""Curvature of the loss: products with Hessian and Gauss-Newton matrix, their spectra."""

from __future__ import annotations

from lossnav.curvature.base import Operator
from lossnav.curvature.density import DensityOptions, SpectralDensity, spectral_density
from lossnav.curvature.diagonal import Diagonal, diagonal
from lossnav.curvature.eigen import Eigenpairs, top_eigenpairs
from lossnav.curvature.gauss_newton import OPERATORS, GaussNewton
from lossnav.curvature.hessian import Hessian, gradient
from lossnav.curvature.trace import Estimate, trace

__all__ = [
    "OPERATORS",
    "DensityOptions",
    "Diagonal",
    "Eigenpairs",
    "Estimate",
    "GaussNewton",
    "Hessian",
    "Operator",
    "SpectralDensity",
    "diagonal",
    "gradient",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]
