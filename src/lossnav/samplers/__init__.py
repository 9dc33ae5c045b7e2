"""Samplers choose the coordinates to evaluate. They do not handle parameters."""

from lossnav.samplers.adaptive import Adaptive
from lossnav.samplers.base import Sampler
from lossnav.samplers.grid import Grid
from lossnav.samplers.points import Points
from lossnav.samplers.registry import SamplerKind, by_word, kinds, register

__all__ = ["Adaptive", "Grid", "Points", "Sampler", "SamplerKind", "by_word", "kinds", "register"]
