"""What is minimised: a model, a loss, data, metrics."""

from lossnav.objective.objective import Objective

__all__ = ["Objective"]
