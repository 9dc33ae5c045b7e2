"""Our own engines pass the laws of engines; each law is broken by one; a minimal one works."""

import multiprocessing.dummy
import subprocess
import sys

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav import errors
from lossnav.engines.base import Outcome
from lossnav.testing import EngineLaws, check_engine


class TestLocal(EngineLaws):
    def make(self):
        return ln.Local()


class TestLocalPlain(EngineLaws):
    def make(self):
        return ln.Local(plan="plain")


class TestLocalInFloat64(EngineLaws):
    def make(self):
        return ln.Local(precision="float64")


@pytest.mark.cluster
@pytest.mark.slow
class TestRay(EngineLaws):
    def make(self):
        return ln.Ray(workers=1)


class Threads(ln.Engine):
    """What a stranger writes: run and stop, and no more. Outcomes come in the order that threads finish."""

    def run(self, function, points):
        self.stopped = False

        def one(number):
            try:
                return Outcome(number, function(points[number]))
            except Exception as error:
                return Outcome(number, {}, f"{type(error).__name__}: {error}")

        with multiprocessing.dummy.Pool(2) as pool:
            for start in range(0, len(points), 4):
                if self.stopped:
                    return
                yield from pool.imap_unordered(one, range(start, min(start + 4, len(points))))

    def stop(self):
        self.stopped = True


class TestThreads(EngineLaws):
    def make(self):
        return Threads()


class Skipping(Threads):
    def run(self, function, points):
        yield from (outcome for outcome in super().run(function, points) if outcome.number != 1)


class Altering(Threads):
    def prepare(self, function, probes, total):
        return lambda point: {name: value * 1.01 for name, value in function(point).items()}


class Cleaning(Threads):
    def run(self, function, points):
        for outcome in super().run(function, points):
            yield outcome._replace(values={name: np.nan_to_num(x) for name, x in outcome.values.items()})


class Raising(Threads):
    def run(self, function, points):
        for number, point in enumerate(points):
            if getattr(self, "stopped", False):
                return
            yield Outcome(number, function(point))


class OnPoints(Threads):
    def run(self, function, points):
        assert len(points)
        yield from super().run(function, points)


class GoingOn(Threads):
    def stop(self):
        pass


class Once(Threads):
    def run(self, function, points):
        if not getattr(self, "stopped", False):
            yield from super().run(function, points)


class Moving(Threads):
    def run(self, function, points):
        yield from super().run(function, points)
        points += 1


class Describing(Threads):
    def describe(self):
        return {"precision": "twelve digits", "host": object()}


class Seeding(Threads):
    def prepare(self, function, probes, total):
        torch.manual_seed(5)
        function = super().prepare(function, probes, total)
        return lambda point: {name: value + float(torch.rand(())) for name, value in function(point).items()}


BROKEN = {
    "test_every_point_has_one_outcome": Skipping,
    "test_values_are_the_functions_own": Altering,
    "test_values_that_are_not_finite_are_kept": Cleaning,
    "test_an_error_is_an_outcome": Raising,
    "test_no_points_have_no_outcomes": OnPoints,
    "test_it_stops": GoingOn,
    "test_it_runs_again": Once,
    "test_points_are_left_alone": Moving,
    "test_description_is_complete": Describing,
    "test_it_is_evaluated_with": Seeding,
}


def test_every_law_has_an_engine_that_breaks_it():
    assert sorted(BROKEN) == EngineLaws.names()


@pytest.mark.parametrize("law", BROKEN)
def test_the_law_can_fail(law):
    class Mine(EngineLaws):
        def make(self):
            return BROKEN[law]()

    with pytest.raises((AssertionError, ValueError)):
        getattr(Mine(), law)()


def test_all_at_once():
    check_engine(Threads)
    with pytest.raises(AssertionError, match="object object at"):
        check_engine(Describing)


@pytest.fixture
def bowl():
    return ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})


@pytest.fixture
def line(bowl):
    return ln.Line(bowl.params, {"x": torch.tensor([3.0, 4.0])})


def test_a_minimal_engine_works_everywhere(bowl, line, tmp_path):
    grid, store = ln.Grid(alpha=(-1, 1, 501)), tmp_path / "run.zarr"
    surface = ln.evaluate(bowl, line, grid, engine=Threads(), store=store, save_directions=True)
    np.testing.assert_allclose(surface["loss"], 25 * surface["alpha"] ** 2, rtol=1e-6)
    assert surface.attrs["engine"] == {"kind": "Threads", "plan": "plain", "precision": "native"}
    assert ln.report(store, objective=bowl, progress=False)
    assert ln.estimate(bowl, line, grid, engine=Threads()).points == 501
    np.testing.assert_array_equal(ln.resume(store, bowl, engine=Threads())["loss"], surface["loss"])
    lines = [ln.Line(bowl.params, {"x": torch.tensor([float(i + 1), 1.0])}) for i in range(2)]
    joined = ln.ensemble(bowl, lambda i: lines[i], ln.Grid(alpha=(-1, 1, 5)), seeds=range(2), engine=Threads())
    assert joined["loss"].shape == (2, 5)


def test_what_it_does_not_say_of_itself_loses_no_point(bowl, line, tmp_path):
    class Silent(Threads):
        def describe(self):
            return {}

    surface = ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 501)), engine=Silent(), store=tmp_path / "run.zarr")
    assert (ln.open(tmp_path / "run.zarr")["status"] == 1).all()
    assert surface.attrs["engine"]["precision"] == "native"


def test_a_point_that_it_passes_over_has_failed(bowl, line):
    with pytest.warns(errors.PointsFailedWarning, match="Skipping returned no outcome"):
        surface = ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 5)), engine=Skipping())
    assert int((surface["status"] == 3).sum()) == 1


def test_a_second_outcome_of_a_point_is_left_out(bowl, line):
    class Twice(Threads):
        def run(self, function, points):
            for outcome in super().run(function, points):
                yield outcome
                yield outcome._replace(values={"loss": 7.0})

    with pytest.warns(errors.LossnavWarning, match="had one already"):
        surface = ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 5)), engine=Twice())
    np.testing.assert_allclose(surface["loss"], 25 * surface["alpha"] ** 2)


def test_the_laws_need_no_test_runner():
    code = "import sys, lossnav.testing; print(sorted({'pytest', '_pytest', 'hypothesis'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
