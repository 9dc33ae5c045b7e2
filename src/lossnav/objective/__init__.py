"""What is minimised: a model, a loss, data, metrics."""

from lossnav.objective.forward_pass import ForwardPass
from lossnav.objective.objective import Objective

__all__ = ["ForwardPass", "Objective"]
