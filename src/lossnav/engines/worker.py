"""The worker of the `Ray` engine: builds the function once, then evaluates tiles of points as `Local` does."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav.engines.base import PointFunction
from lossnav.engines.cluster import ray_module
from lossnav.engines.local import Local
from lossnav.engines.plan import Precision
from lossnav.errors import LossnavWarning


class Worker:
    """An actor in a process of the cluster."""

    engine: Local
    function: PointFunction
    description: dict[str, Any]

    def place(self) -> str:
        """Return the id of the node on which this process runs."""
        return str(ray_module().get_runtime_context().get_node_id())

    def build(
        self,
        payload: NDArray[np.uint8],
        by_spec: bool,
        probes: NDArray[np.float64],
        total: int | None,
        plan: Any,
        precision: Precision,
        threads: int,
        halvings: int,
    ) -> dict[str, Any]:
        """Unpickle the function and choose a plan; return the engine's description, warnings and versions."""
        torch.set_num_threads(threads)
        function = ray_module().cloudpickle.loads(payload)
        self.engine = Local(plan, precision)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LossnavWarning)
            self.function = self.engine.prepare(function() if by_spec else function, probes, total)
        halve = getattr(self.function, "halve", bool)
        for _ in range(halvings):
            halve()
        self.description = self.engine.describe()
        texts = [str(warning.message) for warning in caught if issubclass(warning.category, LossnavWarning)]
        at_once = getattr(self.function, "points_at_once", 1)
        return {
            "engine": self.description,
            "points_at_once": at_once,
            "warnings": texts,
            "torch": torch.__version__,
        }

    def evaluate(
        self, points: NDArray[np.float64]
    ) -> tuple[list[tuple[dict[str, float], str | None]], float, dict[str, Any] | None]:
        """Evaluate a tile; return values and errors, the seconds, and the engine's description if it changed."""
        started = time.perf_counter()
        outcomes = self.engine.run(self.function, points)
        made = [(_floats(outcome.values), outcome.error) for outcome in outcomes]
        description = self.engine.describe()
        changed, self.description = description != self.description, description
        return made, time.perf_counter() - started, description if changed else None


def _floats(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values as Python floats; attributes of the mapping (losses of single samples) are kept."""
    made = copy.copy(values) if isinstance(values, dict) else dict(values)
    made.update({name: float(value) for name, value in values.items()})
    return made
