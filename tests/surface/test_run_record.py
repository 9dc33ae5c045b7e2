"""The record of a run, as one who writes a loop of their own uses it."""

import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
import xarray as xr

import lossnav as ln
from lossnav import errors
from lossnav._utils.jsonable import jsonable
from lossnav.acceleration import ChartFunction
from lossnav.engines import Outcome
from lossnav.evaluation.provenance import provenance
from lossnav.storage import journal
from lossnav.storage.schema import RESERVED
from lossnav.surface.run_record import RunRecord
from lossnav.surface.run_store import Store
from lossnav.surface.variables import STATUS_WORDS

OF_THE_CLOCK = ("created", "seconds", "points_per_second")
PLAIN = ln.Local(plan="plain")
GRID = ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 3))
SCATTERED = ln.Points([[0.5, 0.25], [-1.0, 0.0], [-0.0, 1.0], [0.125, -0.5]], ("alpha", "beta"))
BARE = {
    "objective": {"device": "cpu"},
    "chart": {"dims": ["alpha"]},
    "sampler": {"kind": "Mine"},
    "engine": {"precision": "native"},
    "torch_version": "2.10.0",
}


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.randint(0, 2, (40,))
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)).eval()
    objective = ln.Objective(model, torch.nn.functional.cross_entropy, (x, y), metrics=["accuracy"])
    return objective, ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))


def record_of(problem, sampler, store=None, **options):
    """A record with the provenance of a call of `evaluate` with a plain engine and no check of the centre."""
    objective, plane = problem
    about = {"keep_samples": True} if options.get("keep_samples") else {}
    made = provenance(objective, plane, sampler.describe(), PLAIN, about=about)
    return RunRecord(plane.dims, made, axes=sampler.axes, store=store, **options)


def points_of(sampler):
    """All that a sampler of fixed points asks for, in its order."""
    asking, asked, losses = sampler.rounds(), [], None
    while True:
        try:
            asked.append(next(asking) if losses is None else asking.send(losses))
        except StopIteration:
            return np.concatenate(asked)
        losses = np.zeros(len(asked[-1]))


def loop(problem, record, points, raising=lambda point: False):
    """A loop of one's own: plain calls at the points that are not known."""
    objective, plane = problem
    called = []
    with record:
        known, _ = record.take_known(points)
        for point in points[~known]:
            called.append(tuple(point.tolist()))
            with record.timing():
                values, error = {}, ValueError("no such place") if raising(point) else None
                if error is None:
                    values = objective.evaluate(plane(point))
            record.add(point, values, error)
    return called


def same(a, b):
    """Whether two surfaces are the same, bit by bit and in the order of all they say, but for what a clock said."""
    xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())
    assert list(a.variables) == list(b.variables)
    assert [a[name].attrs for name in a.variables] == [b[name].attrs for name in b.variables]
    assert list(a.attrs) == list(b.attrs)
    timeless = [{key: value for key, value in s.attrs.items() if key not in OF_THE_CLOCK} for s in (a, b)]
    assert jsonable(timeless[0]) == jsonable(timeless[1])


# ---------------------------------------------------------------------- the law


@pytest.mark.parametrize("sampler", [GRID, SCATTERED], ids=["grid", "points"])
@pytest.mark.parametrize("keep_samples", [False, True])
def test_a_loop_of_ones_own_stores_what_evaluate_stores(problem, tmp_path, sampler, keep_samples):
    options = {"keep_samples": keep_samples}
    if keep_samples:  # the plain path keeps them where it is asked to
        problem = problem[0].keeping_samples(), problem[1]
    theirs = ln.evaluate(
        *problem, sampler, engine=PLAIN, store=tmp_path / "a.zarr", check=False, progress=False, **options
    )
    with Store(tmp_path / "b.zarr") as store:
        record = record_of(problem, sampler, store, **options)
        loop(problem, record, points_of(sampler))
    same(record.surface, theirs)
    same(ln.open(tmp_path / "b.zarr"), ln.open(tmp_path / "a.zarr"))
    bare = record_of(problem, sampler, **options)
    loop(problem, bare, points_of(sampler))
    same(bare.surface, ln.evaluate(*problem, sampler, engine=PLAIN, check=False, progress=False, **options))


def test_points_that_raise_are_recorded_as_evaluate_records_them(problem):
    objective, plane = problem

    def raises(point):
        return point[0] == 0.5

    class Raising(ln.Local):
        def run(self, function, points):
            for i, point in enumerate(points):
                wrong = "ValueError: no such place" if raises(point) else None
                yield Outcome(i, {} if wrong else function(point), wrong)

    with pytest.warns(errors.PointsFailedWarning, match="3 of 15 points .* first at"):
        theirs = ln.evaluate(objective, plane, GRID, engine=Raising(plan="plain"), check=False, progress=False)
    record = record_of(problem, GRID)
    with pytest.warns(errors.PointsFailedWarning, match="3 of 15 points .* first at"):
        loop(problem, record, points_of(GRID), raises)
    same(record.surface, theirs)
    assert record.surface.lossnav.counts["failed"] == 3
    assert record.surface.attrs["failures"][0] == "(0.5, -1): ValueError: no such place"
    with pytest.raises(errors.EvaluationError, match="All 15 points raised an error, the first at .*no such place"):
        loop(problem, record_of(problem, GRID), points_of(GRID), lambda point: True)


# ---------------------------------------------------------------------- rows, statuses, seconds


def test_rows_statuses_and_what_is_not_there():
    record = RunRecord(["alpha"], BARE, axes={"alpha": np.array([-1.0, 0.0, 1.0, 2.0])})
    rows = [
        record.add([1.0], {"loss": 2.0, "accuracy": 0.5}),
        record.add((0.0,), {"loss": torch.tensor(float("inf"))}),
        record.add(np.array([-1.0]), {}, "RuntimeError: worn out"),
    ]
    assert [STATUS_WORDS[row.status] for row in rows] == ["ok", "non-finite", "failed"]
    made = record.dataset()
    np.testing.assert_array_equal(made["loss"], [np.nan, np.inf, 2, np.nan])
    np.testing.assert_array_equal(made["accuracy"], [np.nan, np.nan, 0.5, np.nan])
    assert made["status"].values.tolist() == [3, 2, 1, 0]
    assert record.errors == made.attrs["failures"] == ["(-1): RuntimeError: worn out"]
    assert len(record) == 3 and made.attrs["finished"] is False
    assert made.attrs["created"] == record.dataset().attrs["created"]


def test_failures_are_the_first_twenty():
    record = RunRecord(["alpha"], BARE)
    for i in range(30):
        record.add([float(i)], {}, f"RuntimeError: {i}")
    assert record.dataset().attrs["failures"] == [f"({i}): RuntimeError: {i}" for i in range(20)]
    assert len(record.errors) == 30


def test_seconds_are_those_of_timing_alone():
    now = [100.0]
    record = RunRecord(["alpha"], BARE, clock=lambda: now[0])
    for point in (0.0, 1.0, 2.0):
        with record.timing():
            now[0] += 0.5
        record.add([point], {"loss": 1.0})
        now[0] += 1000.0
    with suppress(ZeroDivisionError), record.timing():
        now[0] += 0.5
        _ = 1 / 0
    assert record.seconds == 2.0
    attributes = record.attributes()
    assert (attributes["seconds"], attributes["points_per_second"]) == (2.0, 1.5)
    record.add_known([3.0], {"loss": 1.0})  # measured elsewhere
    assert record.attributes()["points_per_second"] == 1.5
    assert RunRecord(["alpha"], BARE).attributes()["points_per_second"] == "nan"


def test_what_changes_meanwhile_is_asked_for_when_it_is_said():
    used = []
    record = RunRecord(["alpha"], BARE | {"engine": lambda: {"precision": "native", "workers": len(used)}})
    hashes = {record.attributes()["plan_hash"]}
    used += [1, 2]
    assert record.dataset().attrs["engine"]["workers"] == 2
    for key, value in (("sampler", {"kind": "Other"}), ("objective", {"device": "cpu", "fingerprint": "1"})):
        hashes.add(RunRecord(["alpha"], BARE | {key: value}).attributes()["plan_hash"])
    assert len(hashes) == 3
    assert RunRecord(["alpha"], BARE | {"note": "mine"}).attributes()["plan_hash"] in hashes  # no part of a plan


# ---------------------------------------------------------------------- a store, and going on


def test_a_loop_goes_on_from_its_store(problem, tmp_path):
    place, points = tmp_path / "run.zarr", points_of(GRID)
    whole = record_of(problem, GRID)
    loop(problem, whole, points)
    with Store(place) as store:
        record = record_of(problem, GRID, store)
        with pytest.warns(errors.PointsFailedWarning):
            loop(problem, record, points[:7], raising=lambda point: point[1] == 0)
    failed = {tuple(point) for point in points[:7].tolist() if point[1] == 0}
    assert failed and ln.open(place).lossnav.counts["failed"] == len(failed)
    with Store(place) as store:
        record = record_of(problem, GRID, store)
        assert record.known.points.shape == (7 - len(failed), 2)
        called = loop(problem, record, points)
    assert set(called) == failed | {tuple(point) for point in points[7:].tolist()}
    same(ln.open(place), whole.surface)
    with Store(place) as store:
        again = record_of(problem, GRID, store)
        assert loop(problem, again, points) == []
    same(again.surface, whole.surface)
    assert [again.surface.attrs[key] for key in OF_THE_CLOCK] == [record.surface.attrs[key] for key in OF_THE_CLOCK]


def test_a_loop_goes_on_from_a_surface(problem):
    coarse = ln.evaluate(*problem, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), engine=PLAIN, progress=False)
    record = record_of(problem, GRID, resume=coarse)
    known, losses = record.take_known([[0.0, -1.0], [0.5, 0.0], [-0.0, 1.0]])
    assert known.tolist() == [True, False, True]
    assert losses[[0, 2]].tolist() == [float(coarse["loss"].sel(alpha=0, beta=b)) for b in (-1, 1)]
    assert np.isnan(losses[1]) and len(record) == 2
    with pytest.raises(errors.OptionError, match="something else:\n  objective.population: was None, is 40"):
        record_of((problem[0].subset(20), problem[1]), GRID, resume=coarse)
    with pytest.raises(errors.OptionError, match="lacks the losses of single samples"):
        record_of(problem, GRID, resume=coarse, keep_samples=True)


def test_another_run_is_refused(problem, tmp_path):
    place = tmp_path / "run.zarr"
    ln.evaluate(*problem, GRID, engine=PLAIN, store=place, progress=False)
    with Store(place) as store, pytest.raises(errors.PlanMismatchError, match="sampler.kind: was 'Grid', is 'Points'"):
        record_of(problem, SCATTERED, store)


def ended_by(error, problem, record, points):
    """A loop that an error ends after some points."""
    objective, plane = problem
    with record:
        for point in points:
            record.add(point, objective.evaluate(plane(point)))
        raise error


def test_what_was_added_is_on_disk_whatever_ends_the_loop(problem, tmp_path):
    place, points = tmp_path / "run.zarr", points_of(SCATTERED)
    with Store(place) as store, pytest.raises(ZeroDivisionError):
        ended_by(ZeroDivisionError(), problem, record_of(problem, SCATTERED, store), points[:3])
    there = ln.open(place)
    assert there.sizes == {"point": 3} and not there.attrs["finished"]
    with Store(place) as store:
        assert loop(problem, record_of(problem, SCATTERED, store), points) == [tuple(points[3].tolist())]
    assert ln.open(place).attrs["finished"]


def test_points_that_are_added_before_the_store_is_begun_are_in_it(problem, tmp_path):
    place, (first, *_) = tmp_path / "run.zarr", points_of(SCATTERED)
    for known in (0, 1):  # of a new store, and of one that is gone on with
        with Store(place) as store:
            record = record_of(problem, SCATTERED, store)
            record.add(first + known, {"loss": 1.0 + known})
            record.begin()
            assert len(ln.open(place)["loss"]) == 1 + known
    assert ln.open(place)["loss"].values.tolist() == [1.0, 2.0]


def test_ctrl_c_keeps_what_was_measured(problem, tmp_path):
    place, points = tmp_path / "run.zarr", points_of(GRID)[:4]
    with pytest.raises(ln.Interrupted, match="Stopped after 4 points.*in the .partial of this exception") as stopped:
        ended_by(KeyboardInterrupt(), problem, record_of(problem, GRID), points)
    partial = stopped.value.partial
    assert partial.lossnav.counts["ok"] == 4
    assert (partial.attrs["interrupted"], partial.attrs["finished"]) == (True, False)
    with (
        Store(place) as store,
        pytest.raises(ln.Interrupted, match="stored in .*run.zarr. To resume, repeat the same call") as again,
    ):
        ended_by(KeyboardInterrupt(), problem, record_of(problem, GRID, store), points)
    same(again.value.partial, partial)
    assert ln.open(place).identical(again.value.partial)


def test_a_full_disk_loses_nothing(problem, tmp_path, monkeypatch):
    objective, plane = problem
    points = points_of(GRID)
    with Store(tmp_path / "run.zarr") as store:
        record = record_of(problem, GRID, store)
        record.begin()
        record.add(points[0], objective.evaluate(plane(points[0])))

        def full(self):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal.Journal, "flush", full)
        with pytest.raises(errors.StoreError, match="No space left") as caught:
            record.flush()
        assert caught.value.surface.lossnav.counts["ok"] == 1


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("point", "values", "words"),
    [
        ([0.25], {"loss": 1.0}, "alpha = 0.25 is not a coordinate of the grid"),  # would be put beside
        ([2.0], {"loss": 1.0}, "alpha = 2.0 is not a coordinate of the grid"),
        ([np.nan], {"loss": 1.0}, "no finite value for each of alpha"),
        ([0.0, 1.0], {"loss": 1.0}, r"Pass an array of shape \(1,\)"),
        (0.0, {"loss": 1.0}, r"Pass an array of shape \(1,\)"),
        ([0.0], {"accuracy": 1.0}, "have no loss"),
        ([0.0], {}, "or error= if there is none"),
        ([0.0], {"loss": None}, "are not numbers"),
        ([0.0], {"loss": np.zeros(2)}, "are not numbers"),
        ([0.0], {"loss": 1.0, "alpha": 2.0}, "name 'alpha' belongs"),
        ([0.0], {"loss": 1.0, "status": 2.0}, "name 'status' belongs"),
    ],
)
def test_what_would_be_stored_wrong_is_refused(point, values, words):
    record = RunRecord(["alpha"], BARE, axes={"alpha": np.array([0.0, 0.5, 1.0])})
    with pytest.raises(errors.OptionError, match=words):
        record.add(point, values)
    assert len(record) == 0 and record.dataset().lossnav.counts["not evaluated"] == 3


@pytest.mark.parametrize(
    ("provenance", "options", "words"),
    [
        ({"engine": None}, {}, "lacks engine"),
        ({"objective": None, "torch_version": None}, {}, "lacks objective, torch_version"),
        ({"objective": {}}, {}, "lacks the entry 'device'"),
        ({"chart": {"dims": ["alpha", "beta"]}}, {}, "one chart"),
        ({}, {"axes": {"beta": np.arange(3.0)}}, "increasing coordinates for each of alpha"),
        ({}, {"axes": {"alpha": np.array([1.0, 0.0])}}, "increasing coordinates for each of alpha"),
        ({}, {"store": "run.zarr"}, r"with Store\(path\) as store"),
    ],
)
def test_what_is_no_record_is_refused_before_anything_is_measured(provenance, options, words):
    made = {key: value for key, value in (BARE | provenance).items() if value is not None}
    with pytest.raises(errors.OptionError, match=words):
        RunRecord(["alpha"], made, **options)


@pytest.mark.parametrize("name", RESERVED)
def test_metrics_that_are_called_as_a_part_of_a_surface_are_refused_at_once(name):
    x = torch.eye(2)
    metrics = {name: lambda output, target: (output - target).abs().mean()}
    with pytest.raises(errors.OptionError, match=f"cannot be called '{name}'"):
        ln.Objective(torch.nn.Linear(2, 1), "mse", (x, x[:, :1]), metrics=metrics)


def test_a_record_needs_no_torch():
    code = "import sys, lossnav.surface.run_record; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_engine_serves_a_loop_of_ones_own(problem):
    """`Engine.run` gives what a record takes: in any order, with errors."""
    objective, plane = problem
    points = points_of(GRID)[::-1]
    record = record_of(problem, GRID)
    with record:
        for outcome in PLAIN.run(ChartFunction(objective, plane), points):
            record.add(points[outcome.number], outcome.values, outcome.error)
    same(record.surface, ln.evaluate(objective, plane, GRID, engine=PLAIN, check=False, progress=False))
