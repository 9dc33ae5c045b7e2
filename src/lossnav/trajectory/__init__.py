"""A training run in weight space: recorded by one line in any loop, read back one snapshot at a time."""

from lossnav.trajectory.recorder import Trajectory

__all__ = ["Trajectory"]
