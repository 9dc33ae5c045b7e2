"""The plainest engine: this process, one point after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav.engines.base import Engine, Outcome, PointFunction


class Local(Engine):
    """Evaluate here, in order."""

    def run(self, function: PointFunction, points: NDArray[np.float64]) -> Iterator[Outcome]:
        """Yield the outcome of every point, in the order given."""
        for number, point in enumerate(points):
            try:
                outcome = Outcome(number, function(point))
            except Exception as error:  # one bad point does not end a run; Ctrl-C is no Exception and does
                outcome = Outcome(number, {}, f"{type(error).__name__}: {error}")
            yield outcome

    def describe(self) -> dict[str, Any]:
        """Kind and plan."""
        return {"kind": "Local", "plan": "plain"}
