"""Engines: they run "this function at these points". They know nothing of charts."""

from lossnav.engines.base import Engine, Outcome, PointFunction
from lossnav.engines.local import Local

__all__ = ["Engine", "Local", "Outcome", "PointFunction"]
