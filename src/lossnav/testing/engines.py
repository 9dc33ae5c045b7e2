"""Laws of an engine: every point once, the function's own values, an error is an outcome, and it stops when told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav import params as algebra
from lossnav.charts import Line
from lossnav.engines import Engine, Local
from lossnav.engines.base import Outcome, PointFunction, description_of
from lossnav.engines.plan import PRECISIONS
from lossnav.evaluation.evaluate import evaluate
from lossnav.objective.objective import Objective
from lossnav.samplers import Grid
from lossnav.testing.laws import Laws, require, require_described

Array = NDArray[np.float64]


class EngineLaws(Laws):
    """What a class of engines must do; ``make`` returns an engine. The laws close it.

    Attributes
    ----------
    tolerance : float
        Largest relative difference of a value from the function's own.

    Examples
    --------
    >>> import lossnav as ln
    >>> class TestLocal(EngineLaws):
    ...     def make(self):
    ...         return ln.Local(plan="plain")
    >>> TestLocal().test_every_point_has_one_outcome()
    """

    tolerance: float = 1e-5

    def _outcomes(self, function: PointFunction, points: Array, engine: Engine | None = None) -> list[Outcome]:
        engine = self.make() if engine is None else engine
        assert isinstance(engine, Engine)
        try:
            prepared = engine.prepare(function, points[:2] if len(points) > 1 else _points(2), len(points))
            return list(engine.run(prepared, points))
        finally:
            engine.close()

    def test_every_point_has_one_outcome(self) -> None:
        """The outcomes of m points bear the numbers 0 to m - 1, each once, in any order."""
        for count in (1, 7, 64):
            numbers = [outcome.number for outcome in self._outcomes(_wave, _points(count))]
            require(
                sorted(numbers) == list(range(count)),
                f"Of {count} points the outcomes have the numbers {sorted(numbers)[:10]}.",
            )

    def test_values_are_the_functions_own(self) -> None:
        """An outcome holds what the function returns at its point, and no error."""
        points = _points(20)
        for number, values, error in self._outcomes(_wave, points):
            expected = _wave(points[number])
            require(error is None, f"The outcome of {points[number].tolist()} has the error {error!r}.")
            require(
                set(values) == set(expected), f"The values are {sorted(values)}, of the function {sorted(expected)}."
            )
            near = all(np.isclose(values[name], expected[name], rtol=self.tolerance) for name in expected)
            require(near, f"At {points[number].tolist()} it says {dict(values)}, and the function {expected}.")

    def test_values_that_are_not_finite_are_kept(self) -> None:
        """NaN and inf are values as others are."""
        found = {o.number: o.values["loss"] for o in self._outcomes(_overflowing, _points(5))}
        require(np.isinf(found[0]) and np.isnan(found[4]), f"inf and NaN came back as {found[0]} and {found[4]}.")

    def test_an_error_is_an_outcome(self) -> None:
        """Where the function raises, the outcome has the error and no values; the other points are computed."""
        outcomes = {outcome.number: outcome for outcome in self._outcomes(_fails_at_2, _points(5))}
        require(sorted(outcomes) == [0, 1, 2, 3, 4], f"Only the points {sorted(outcomes)} have an outcome.")
        failed = [number for number, outcome in outcomes.items() if outcome.error is not None]
        require(failed == [2], f"The function raised at point 2; errors have {failed}.")
        said = str(outcomes[2].error)
        require("no such place" in said and not outcomes[2].values, f"The outcome of point 2 is {outcomes[2]}.")

    def test_no_points_have_no_outcomes(self) -> None:
        """An empty array of points is no error."""
        require(self._outcomes(_wave, np.empty((0, 2))) == [], "There are outcomes of no points.")

    def test_it_stops(self) -> None:
        """After `stop`, what was begun is yielded, nothing more is begun, and the run ends."""
        engine: Engine = self.make()
        numbers: list[int] = []
        points = _points(200)
        try:
            function = engine.prepare(_wave, points[:2], len(points))
            for outcome in engine.run(function, points):
                numbers.append(outcome.number)
                if len(numbers) == 3:
                    engine.stop()
        finally:
            engine.close()
        require(len(set(numbers)) == len(numbers), "A point has two outcomes.")
        require(
            3 <= len(numbers) < len(points), f"Told to stop at the third of 200 points, it went on to {len(numbers)}."
        )

    def test_it_runs_again(self) -> None:
        """A run that was stopped, or closed, is no obstacle for the next one."""
        engine: Engine = self.make()
        for outcome in self._stopped(engine):
            del outcome
        for _ in range(2):
            found = sorted(outcome.number for outcome in self._outcomes(_wave, _points(4), engine))
            require(found == [0, 1, 2, 3], f"The next run gave outcomes of {found} instead of four points.")

    def _stopped(self, engine: Engine) -> list[Outcome]:
        made: list[Outcome] = []
        try:
            for outcome in engine.run(engine.prepare(_wave, _points(2), 20), _points(20)):
                made.append(outcome)
                engine.stop()
        finally:
            engine.close()
        return made

    def test_points_are_left_alone(self) -> None:
        """It does not write into the array of points."""
        points = _points(6)
        self._outcomes(_wave, points)
        require(np.array_equal(points, _points(6)), "It changed the points.")

    def test_description_is_complete(self) -> None:
        """JSON holds what it says of itself; its precision is one that is known, and there are workers."""
        engine: Engine = self.make()
        require_described(description_of(engine), "What describe() returns")
        said = description_of(engine)["precision"]
        require(said in PRECISIONS, f"precision is {said!r}; use one of {', '.join(PRECISIONS)}.")
        require(engine.concurrency >= 1 and engine.threads >= 1, "concurrency and threads are 1 or more.")

    def test_it_is_evaluated_with(self) -> None:
        """`evaluate` gives what the plain path gives, and neither weights nor the global random state change."""
        model = torch.nn.Linear(3, 1)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.5, -1.0, 0.25]]))
            model.bias.fill_(0.1)
        x = torch.sin(torch.arange(24.0)).reshape(8, 3)
        objective = Objective(model, "mse", (x, torch.ones(8, 1)))
        line = Line(objective.params, {"weight": torch.tensor([[1.0, 0.5, 0.0]]), "bias": torch.ones(1)})
        grid, before = Grid(alpha=(-1, 1, 9)), algebra.fingerprint(objective.params)
        state = torch.random.get_rng_state()
        surface = evaluate(objective, line, grid, engine=self.make(), progress=False)
        plain = evaluate(objective, line, grid, engine=Local(plan="plain"), progress=False)
        require(
            np.allclose(surface["loss"], plain["loss"], rtol=self.tolerance),
            f"The losses {surface['loss'].values.tolist()} are not {plain['loss'].values.tolist()}.",
        )
        require((surface["status"] == plain["status"]).all(), "The status of points differs from the plain path's.")
        require(algebra.fingerprint(objective.params) == before, "The weights were changed.")
        require(torch.equal(torch.random.get_rng_state(), state), "The global random state was changed.")


def check_engine(make: Callable[[], Engine], tolerance: float = 1e-5) -> None:
    """Hold an engine to `EngineLaws`, all at once.

    Parameters
    ----------
    make : callable
        Returns the engine.
    tolerance : float
        Largest relative difference of a value from the function's own.

    Raises
    ------
    AssertionError
        At the first law that is broken.

    Examples
    --------
    >>> import lossnav as ln
    >>> check_engine(lambda: ln.Local(plan="plain"))
    """
    EngineLaws.check(make, tolerance=tolerance)


# ---------------------------------------------------------------------- functions that engines are run on


def _points(count: int) -> Array:
    return np.stack([np.arange(count, dtype=np.float64), np.linspace(-1.0, 1.0, count)], axis=1)


def _wave(point: Array) -> dict[str, float]:
    return {"loss": float(np.sin(point[0]) + point[1]), "accuracy": float(point[0] % 2)}


def _overflowing(point: Array) -> dict[str, float]:
    return {"loss": {0: float("inf"), 4: float("nan")}.get(int(point[0]), 1.0)}


def _fails_at_2(point: Array) -> dict[str, float]:
    if point[0] == 2:
        raise ValueError("no such place")
    return _wave(point)
