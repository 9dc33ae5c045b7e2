"""The engine that evaluates in this process, one point after another, by the plain path or by a proven plan."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lossnav.engines.base import Engine, Outcome, PointFunction
from lossnav.engines.plan import PRECISIONS, Plan, Precision
from lossnav.errors import OptionError


class _ThreadRun(threading.local):
    """The state of a run in one thread, because several threads may use one engine."""

    function: Any = None
    prepared = False
    stopped = False

    def __reduce__(self) -> tuple[type[_ThreadRun], tuple[()]]:
        return _ThreadRun, ()  # a copy has no run yet


class Local(Engine):
    """Evaluate in this process, in order.

    Parameters
    ----------
    plan : "auto", "plain", "tuned" or Plan
        ``auto`` chooses a faster way by rule, from the model, the data and the processor; the same call gives the same
        bits on the same machine. ``tuned`` chooses by timing on a part of the data, so two runs may choose differently
        and differ by rounding. A `Plan` is used as it is. All three are first compared with the plain path at probe
        points, and `plan_error` in the surface is the largest difference. ``plain`` is the reference path:
        `Objective.evaluate`, point by point.
    precision : "native", "float32", "tf32", "bfloat16" or "float64"
        The precision in which the model computes; native is its own. Lower precision changes the loss: `plan_error` in
        the surface says by how much at the probes.

    Raises
    ------
    OptionError
        If plan or precision is unknown, or ``plan="plain"`` is combined with another precision than native.

    Examples
    --------
    >>> outcomes = Local(plan="plain").run(lambda point: {"loss": float(point[0]) ** 2}, np.array([[1.0], [3.0]]))
    >>> [outcome.values["loss"] for outcome in outcomes]
    [1.0, 9.0]
    """

    def __init__(
        self, plan: Literal["auto", "plain", "tuned"] | Plan = "auto", precision: Precision = "native"
    ) -> None:
        if precision not in PRECISIONS:
            raise OptionError(f"precision={precision!r} is unknown. Use {', '.join(PRECISIONS)}.")
        if not isinstance(plan, Plan) and plan not in ("auto", "plain", "tuned"):
            raise OptionError(f"plan={plan!r} is unknown. Use 'auto', 'plain', 'tuned' or a Plan.")
        if plan == "plain" and precision != "native":
            raise OptionError(f"plan='plain' computes in the model's own precision, not {precision}. Use plan='auto'.")
        self.plan, self.precision = plan, precision
        self._run = _ThreadRun()
        self._last: Any = None  # for a thread that describes what another prepared

    def prepare(self, function: PointFunction, probes: NDArray[np.float64], total: int | None) -> PointFunction:
        """Choose a plan for a function that has a method ``accelerate``, and prove it at the probe points."""
        self._run.prepared, self._run.function, self._last = True, None, None
        accelerate = getattr(function, "accelerate", None)
        if accelerate is None or self.plan == "plain":
            return function
        prepared: PointFunction = accelerate(probes, total, self.precision, self.plan)
        self._run.function = self._last = prepared
        return prepared

    def run(self, function: PointFunction, points: NDArray[np.float64]) -> Iterator[Outcome]:
        """Yield the outcome of every point, in the order given."""
        number, self._run.stopped = 0, False
        while number < len(points) and not self._run.stopped:
            together = getattr(function, "points_at_once", 1)
            if together > 1:
                try:
                    made = function.many(points[number : number + together])  # type: ignore[attr-defined]
                except Exception:
                    made = []  # evaluate point by point, to find the one that raises
                yield from (Outcome(number + i, values) for i, values in enumerate(made))
                number += len(made)
                if made:
                    continue
            point = points[number]
            try:
                outcome = Outcome(number, function(point))
            except Exception as error:  # one bad point does not end a run; Ctrl-C is not an Exception, and does
                outcome = Outcome(number, {}, f"{type(error).__name__}: {error}")
            yield outcome
            number += 1

    def stop(self) -> None:
        """Begin no further point."""
        self._run.stopped = True

    def describe(self) -> dict[str, Any]:
        """Return the kind, and the plan of the last run with its error."""
        asked = "given" if isinstance(self.plan, Plan) else self.plan
        description = {"kind": "Local", "asked": asked, "plan": "plain", "precision": self.precision}
        function = self._run.function if self._run.prepared else self._last
        return description | (function.describe() if function is not None else {})
