"""One process, one point after the other, each by the plain path or by a plan that proved itself."""

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
    """What belongs to the run of a thread: several may use one engine."""

    function: Any = None
    prepared = False
    stopped = False

    def __reduce__(self) -> tuple[type[_ThreadRun], tuple[()]]:
        return _ThreadRun, ()  # a copy has no run yet


class Local(Engine):
    """Evaluate here, in order.

    Parameters
    ----------
    plan : "auto", "plain", "tuned" or Plan
        ``auto`` goes by rule: what the model, the data and the processor are says what is done to go faster. The same
        call gives the same bits on the same machine. ``tuned`` goes by the clock: it times what may be faster on a
        part of the data, so two runs may choose differently and differ by rounding. A `Plan` is used as it is. All
        three are held against the plain path at probe points first, and `plan_error` in the surface says how far
        they were off there. ``plain`` is the reference path, `Objective.evaluate` point by point.
    precision : "native", "float32", "tf32", "bfloat16" or "float64"
        What the model computes in; native is its own. Lower precision shows: `plan_error` in the surface says how much
        at the probes.

    Raises
    ------
    OptionError
        If plan or precision is unknown, or the plain path is asked for another precision.

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
        self._last: Any = None  # for a thread that tells of what another prepared

    def prepare(self, function: PointFunction, probes: NDArray[np.float64], total: int | None) -> PointFunction:
        """Find a plan for a function that knows faster ways, and prove it at the probe points."""
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
                    made = []  # one of them: found point by point
                yield from (Outcome(number + i, values) for i, values in enumerate(made))
                number += len(made)
                if made:
                    continue
            point = points[number]
            try:
                outcome = Outcome(number, function(point))
            except Exception as error:  # one bad point does not end a run; Ctrl-C is no Exception and does
                outcome = Outcome(number, {}, f"{type(error).__name__}: {error}")
            yield outcome
            number += 1

    def stop(self) -> None:
        """Begin no other point."""
        self._run.stopped = True

    def describe(self) -> dict[str, Any]:
        """Kind, and the plan of the last run with its error."""
        asked = "given" if isinstance(self.plan, Plan) else self.plan
        said = {"kind": "Local", "asked": asked, "plan": "plain", "precision": self.precision}
        function = self._run.function if self._run.prepared else self._last
        return said | (function.describe() if function is not None else {})
