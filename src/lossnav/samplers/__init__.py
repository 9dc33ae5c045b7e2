"""Samplers: which coordinates to evaluate. They know nothing of parameters."""

from lossnav.samplers.adaptive import Adaptive
from lossnav.samplers.base import Sampler
from lossnav.samplers.grid import Grid
from lossnav.samplers.points import Points
from lossnav.samplers.registry import SamplerKind, kinds, register

__all__ = ["Adaptive", "Grid", "Points", "Sampler", "SamplerKind", "kinds", "register"]
