"""Engines: they run "this function at these points". They know nothing of charts."""

from lossnav.engines.base import Engine, Outcome, PointFunction
from lossnav.engines.local import Local
from lossnav.engines.ray import Ray

__all__ = ["Engine", "Local", "Outcome", "PointFunction", "Ray"]
