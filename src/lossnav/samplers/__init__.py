"""Samplers: which coordinates to evaluate. They know nothing of parameters."""

from lossnav.samplers.adaptive import Adaptive
from lossnav.samplers.base import Sampler
from lossnav.samplers.grid import Grid
from lossnav.samplers.points import Points

__all__ = ["Adaptive", "Grid", "Points", "Sampler"]
