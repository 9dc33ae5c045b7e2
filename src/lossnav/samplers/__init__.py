"""Samplers: which coordinates to evaluate. They know nothing of parameters."""

from lossnav.samplers.base import Sampler
from lossnav.samplers.grid import Grid

__all__ = ["Grid", "Sampler"]
