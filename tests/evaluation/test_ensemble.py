"""An ensemble of many seeds: few files while it goes, the same bits whatever happens, and nothing taken for another."""

import json
import multiprocessing
import shutil
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import killing
import lossnav as ln
from lossnav import errors
from lossnav._utils import jsonable
from lossnav.evaluation import ensemble
from lossnav.storage.lease import Lease
from lossnav.surface import seeds as seeds_module

GRID = ln.Grid(alpha=(-2, 2, 9))
OF_THE_CLOCK = ("seconds", "points_per_second", "created", "plan_seconds", "plan_compiling_seconds", "draws")


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["killing", "lossnav.evaluation", "lossnav.surface.run_store", "lossnav.evaluation.ensemble"]
    )
    return context


@pytest.fixture
def blocks_of_three(monkeypatch):
    monkeypatch.setattr(ensemble, "_BLOCK", 3)


def timeless(value):
    """Attributes without what a clock said, or how often an objective was called before."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in OF_THE_CLOCK}
    return [timeless(part) for part in value] if isinstance(value, list | tuple) else value


def same(a, b):
    """Whether two surfaces are the same to the bit, but for what a clock said."""
    assert set(a.variables) == set(b.variables)
    for name in a.variables:
        assert a[name].dtype == b[name].dtype and a[name].dims == b[name].dims
        assert a[name].values.tobytes() == b[name].values.tobytes(), name
    assert timeless(jsonable.jsonable(a.attrs)) == timeless(jsonable.jsonable(b.attrs))


def hills(at=None):
    """A function with a place where it raises, if it is told so; `at` is called with each place."""
    held = [None, None]  # in a list: no part of what the objective is known by

    def loss(p):
        if held[0] is not None:
            held[0](tuple(p["x"].tolist()))
        if held[1] is not None and held[1](p["x"]):
            raise ValueError("no such place")
        return 1 + p["x"][0] ** 2 + 9 * p["x"][1] ** 2 + torch.where(p["x"][0] > 3, torch.inf, 0.0)

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(2, dtype=torch.float64)}, name="hills")
    held[0] = at

    def line(seed):
        return ln.Line(objective.params, {"x": torch.tensor([1.0 + seed / 4, seed / 8], dtype=torch.float64)})

    return objective, line, held


def files_in(folder):
    return sum(path.is_file() for path in folder.rglob("*"))


# ---------------------------------------------------------------------- files


def test_files_do_not_grow_with_the_seeds(tmp_path, blocks_of_three):
    def most(count):
        objective, line, _ = hills()
        numbers = []

        def looking(seed):
            numbers.append(files_in(tmp_path))
            return line(seed)

        store = tmp_path / "band.zarr"
        ln.ensemble(objective, looking, GRID, range(count), store=store, check=False, progress=False)
        assert [path.name for path in tmp_path.iterdir()] == ["band.zarr"]
        shutil.rmtree(store)
        return max(numbers)

    assert most(9) == most(18) < 60


@pytest.mark.parametrize("sampler", [GRID, ln.Adaptive(alpha=(-2, 2), tolerance=0.01)], ids=["grid", "adaptive"])
@pytest.mark.parametrize("block", [1, 3])
def test_however_seeds_are_put_together_they_are_the_same(tmp_path, monkeypatch, sampler, block):
    monkeypatch.setattr(ensemble, "_BLOCK", block)
    objective, line, _ = hills()
    seeds = [4, 0, 2, 1, 9, 7, 3]
    made = ln.ensemble(objective, line, sampler, seeds, store=tmp_path / "band.zarr", check=False, progress=False)
    same(made, ln.ensemble(objective, line, sampler, seeds, check=False, progress=False))
    same(made, ln.open(tmp_path / "band.zarr"))
    assert np.isinf(made["loss"].sel(seed=9).values).any()
    for seed in seeds:
        alone = ln.evaluate(objective, line(seed), sampler, check=False)
        alone = alone if alone.lossnav.is_grid else alone.lossnav.to_grid()
        assert made.lossnav.seed(seed)["loss"].values.tobytes() == alone["loss"].values.tobytes()


# ---------------------------------------------------------------------- killed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "adaptive"])
def test_killed_anywhere_the_same_call_comes_to_the_same_bits(processes, tmp_path, kind):
    log = tmp_path / "whole.log"
    with log.open("ab") as file:
        whole = killing.ensemble(kind, tmp_path / "whole.zarr", file.fileno())
    calls = sorted(killing.points_in(log))
    for i, numbers in enumerate([(2,), (4, 2), (5,), (6, 4), (8,), (10, 3), (14,), (17,), (18,), (19,)]):
        folder = tmp_path / str(i)
        folder.mkdir()
        store, log = folder / "band.zarr", folder / "points.log"
        for number in (*numbers, 1000):
            process = processes.Process(target=killing.ensemble_until, args=(kind, store, log, number))
            process.start()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == 9
        assert process.exitcode == 0
        same(ln.open(store), whole)
        if numbers[0] < 18:  # from then on the whole is written, and its parts are being removed
            assert sorted(killing.points_in(log)) == calls  # nothing that was measured is measured again
        assert sorted(path.name for path in folder.iterdir()) == ["band.zarr", "points.log"]


def stopped(store, after=5, sampler=GRID, seeds=range(8), **options):
    """An ensemble that ends before one of its seeds."""
    objective, line, held = hills()

    def ending(seed):
        if len(chosen) == after:
            raise RuntimeError("this far")
        chosen.append(seed)
        return line(seed)

    chosen = []
    with pytest.raises(RuntimeError, match="this far"):
        ln.ensemble(objective, ending, sampler, seeds, store=store, check=False, progress=False, **options)
    return held


# ---------------------------------------------------------------------- plans


def other_objective():
    line = hills()[1]
    other = ln.Objective.from_function(
        lambda p: 2 + p["x"][0] ** 2, {"x": torch.zeros(2, dtype=torch.float64)}, name="other"
    )
    return other, line, GRID, {}, "objective.model: was 'hills', is 'other'"


def other_chart():
    objective = hills()[0]

    def longer(seed):
        return ln.Line(objective.params, {"x": torch.tensor([1.0, 2.0 + seed], dtype=torch.float64)})

    return objective, longer, GRID, {}, "chart.directions"


def other_grid():
    objective, line, _ = hills()
    return objective, line, ln.Grid(alpha=(-2, 2, 11)), {}, "sampler.axes"


def other_sampler():
    objective, line, _ = hills()
    return objective, line, ln.Adaptive(alpha=(-2, 2)), {}, "sampler.kind: was 'Grid', is 'Adaptive'"


@pytest.mark.parametrize("other", [other_objective, other_chart, other_grid, other_sampler])
def test_a_seed_of_something_else_is_refused_and_stays(tmp_path, blocks_of_three, other):
    store = tmp_path / "band.zarr"
    stopped(store)
    there = ln.open(tmp_path / "band.parts" / "seeds.zarr")
    assert there["seed"].values.tolist() == [0, 1, 2]
    objective, line, sampler, options, words = other()
    with pytest.raises(errors.PlanMismatchError, match="contains another run of seed 0:") as caught:
        ln.ensemble(objective, line, sampler, range(8), store=store, check=False, progress=False, **options)
    assert words in str(caught.value)
    assert ln.open(tmp_path / "band.parts" / "seeds.zarr").identical(there)
    made = ln.ensemble(
        objective, line, sampler, range(8), store=store, overwrite=True, check=False, progress=False, **options
    )
    same(made, ln.ensemble(objective, line, sampler, range(8), check=False, progress=False, **options))


def test_overwrite_begins_anew(tmp_path, blocks_of_three):
    store, places = tmp_path / "band.zarr", []
    stopped(store)
    objective, line, _ = hills(places.append)
    ln.ensemble(objective, line, GRID, range(8), store=store, overwrite=True, check=False, progress=False)
    alone = len(places)
    ln.ensemble(objective, line, GRID, range(8), check=False, progress=False)
    assert len(places) == 2 * alone


def test_other_seeds_that_are_there_stay(tmp_path, blocks_of_three):
    store, places = tmp_path / "band.zarr", []
    stopped(store, after=7)
    objective, line, _ = hills(places.append)
    few = ln.ensemble(objective, line, GRID, [5, 2, 0], store=store, check=False, progress=False)
    assert few["seed"].values.tolist() == [5, 2, 0] and not places
    with pytest.raises(errors.OutputExistsError):  # it was asked for, and is whole
        ln.ensemble(objective, line, GRID, range(8), store=store, check=False, progress=False)
    store.rename(tmp_path / "few.zarr")
    whole = ln.ensemble(objective, line, GRID, range(8), store=store, check=False, progress=False)
    same(whole, ln.ensemble(objective, line, GRID, range(8), check=False, progress=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["band.zarr", "few.zarr"]


def test_what_another_call_wrote_is_not_replaced(tmp_path):
    """Whatever lies beside it: only what a stopped call of the same name put together is."""
    store, places = tmp_path / "band.zarr", []
    stopped(store, after=2)
    shutil.rmtree(store, ignore_errors=True)
    objective, line, _ = hills(places.append)
    ln.evaluate(objective, line(77), ln.Points([[0.5], [0.25]], ("alpha",)), store=store, check=False, progress=False)
    for seeds in (range(8), [9]):
        with pytest.raises(errors.OutputExistsError):
            ln.ensemble(objective, line, GRID, seeds, store=store, check=False, progress=False)
    assert ln.open(store).sizes == {"point": 2}
    whole = ln.ensemble(objective, line, GRID, range(3), store=store, check=False, progress=False, overwrite=True)
    same(ln.open(store), whole)


@pytest.mark.parametrize("sampler", [GRID, ln.Adaptive(alpha=(-2, 2)), ln.Grid(alpha="auto")])
def test_the_same_call_on_a_finished_ensemble_returns_it(tmp_path, sampler):
    store, places = tmp_path / "band.zarr", []
    objective, line, _ = hills(places.append)
    made = ln.ensemble(objective, line, sampler, range(3), store=store, check=False, progress=False)
    written = (store / "zarr.json").stat().st_mtime_ns
    places.clear()
    again = ln.ensemble(objective, line, sampler, range(3), store=store, check=False, progress=False)
    assert again.identical(ln.open(store)) and again.identical(made)
    assert not places or "auto" in made.attrs["sampler"]  # the range is looked for, to be held against the plan
    assert (store / "zarr.json").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == ["band.zarr"]


@pytest.mark.parametrize("other", ["fewer", "more", "order", "grid", "chart", "objective", "engine", "corrected"])
def test_another_call_on_a_finished_ensemble_is_refused(tmp_path, other):
    store = tmp_path / "band.zarr"
    objective, line, _ = hills()
    made = ln.ensemble(objective, line, GRID, range(3), store=store, check=False, progress=False)
    seeds, sampler, options = range(3), GRID, {}
    if other in ("fewer", "more", "order"):
        seeds = {"fewer": range(2), "more": range(4), "order": [2, 1, 0]}[other]
    elif other == "grid":
        sampler = ln.Grid(alpha=(-2, 2, 11))
    elif other == "chart":
        whole, line = line, lambda seed: whole(seed + 1)
    elif other == "objective":
        objective = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), objective.params, name="bowl")
    elif other == "engine":
        options = {"engine": ln.Local(precision="float64")}
    else:
        made.attrs["control_variate"] = {"points": 9, "outside": 0, "residual_error": 0.1, "largest": 0.2}
        ln.save(made, store, overwrite=True)
    there = ln.open(store)
    with pytest.raises(errors.OutputExistsError):
        ln.ensemble(objective, line, sampler, seeds, store=store, check=False, progress=False, **options)
    assert ln.open(store).identical(there)


def test_points_that_raised_in_a_finished_ensemble_are_tried_again(tmp_path):
    store, places = tmp_path / "band.zarr", []
    objective, line, held = hills(places.append)
    held[1] = lambda x: x[0] < -1.9
    for seeds, sampler in ((range(3), GRID), ([0, 5], ln.Adaptive(alpha=(-2, 2), tolerance=0.1))):
        held[1] = lambda x: x[0] < -1.9
        with pytest.warns(errors.PointsFailedWarning):
            ln.ensemble(objective, line, sampler, seeds, store=store, check=False, progress=False, overwrite=True)
        held[1] = None
        places.clear()
        made = ln.ensemble(objective, line, sampler, seeds, store=store, check=False, progress=False)
        if sampler is GRID:  # no point that has a value is evaluated again, but for those at which a plan is tried
            raised = {place for place in places if place[0] < -1.9}
            assert raised and len([place for place in places if place not in raised]) <= 3 * 6
            same(made, ln.ensemble(objective, line, sampler, seeds, check=False, progress=False))
        assert ln.open(store).identical(made)
        assert [path.name for path in tmp_path.iterdir()] == ["band.zarr"]


def test_a_stopped_second_try_leaves_the_finished_ensemble(tmp_path):
    store = tmp_path / "band.zarr"
    objective, line, held = hills()
    held[1] = lambda x: x[0] < -1.9
    with pytest.warns(errors.PointsFailedWarning):
        there = ln.ensemble(objective, line, GRID, range(3), store=store, check=False, progress=False)

    def stop(place):
        raise KeyboardInterrupt

    held[1], held[0] = None, stop
    with pytest.raises(ln.Interrupted):
        ln.ensemble(objective, line, GRID, range(3), store=store, check=False, progress=False)
    assert ln.open(store).identical(there)
    held[0] = None
    made = ln.ensemble(objective, line, GRID, range(3), store=store, check=False, progress=False)
    same(made, ln.ensemble(objective, line, GRID, range(3), check=False, progress=False))


def test_what_a_finished_ensemble_lost_is_evaluated_again(tmp_path):
    store = tmp_path / "band.zarr"
    objective, line, _ = hills()
    whole = ln.ensemble(objective, line, GRID, range(3), store=store, check=False, progress=False)
    chunk_of(store / "loss").write_bytes(b"nothing")
    with pytest.warns(errors.DamagedStoreWarning):
        made = ln.ensemble(objective, line, GRID, range(3), store=store, check=False, progress=False)
    same(made, whole)
    same(ln.open(store), whole)


def test_names_with_dots_share_nothing(tmp_path):
    objective, line, _ = hills([].append)
    first = ln.ensemble(objective, line, GRID, range(3), store=tmp_path / "run.1", check=False, progress=False)
    stopped(tmp_path / "run.2", after=2)
    with pytest.raises(errors.OutputExistsError):
        ln.ensemble(objective, line, GRID, [5], store=tmp_path / "run.1", check=False, progress=False)
    same(ln.open(tmp_path / "run.1"), first)


def test_ctrl_c_while_a_chart_is_made_keeps_the_seeds_before():
    objective, line, _ = hills([].append)

    def chart(seed):
        if seed == 2:
            raise KeyboardInterrupt
        return line(seed)

    with pytest.raises(ln.Interrupted) as caught:
        ln.ensemble(objective, chart, GRID, range(4), check=False, progress=False)
    assert caught.value.partial["seed"].values.tolist() == [0, 1]


# ---------------------------------------------------------------------- points that raise


def with_points_that_raise(store, sampler, held, objective, line):
    """An ensemble of which the last seed of eight is not come to, and points of all others raise."""
    held[1] = lambda x: x[0] < -1.9
    lines = map(line, [0, *range(7)])  # of the first the sampler is asked too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.PointsFailedWarning)
        with pytest.raises(StopIteration):
            ln.ensemble(objective, lambda _: next(lines), sampler, range(8), store=store, check=False, progress=False)
    held[1] = None


def test_points_that_raised_are_tried_again(tmp_path, blocks_of_three):
    store, places = tmp_path / "band.zarr", []
    objective, line, held = hills(places.append)
    with_points_that_raise(store, GRID, held, objective, line)
    places.clear()
    made = ln.ensemble(objective, line, GRID, range(8), store=store, check=False, progress=False)
    asked = list(places)
    same(made, ln.ensemble(objective, line, GRID, range(8), check=False, progress=False))
    # and no other point of these seeds, but for those at which a faster way is tried
    ends = [line(seed)(np.ones(1))["x"].tolist() for seed in range(7)]
    of_these = {(a * x, a * y) for x, y in ends for a in np.linspace(-2, 2, 9) if a}
    raised = {place for place in of_these if place[0] < -1.9}
    assert raised <= set(asked)
    assert sum(place in of_these - raised for place in asked) <= 2 * 7


def test_where_points_on_no_grid_raised_the_points_stay(tmp_path, blocks_of_three):
    store, places = tmp_path / "band.zarr", []
    objective, line, held = hills(places.append)
    with_points_that_raise(store, ln.Adaptive(alpha=(-2, 2), tolerance=0.01), held, objective, line)
    names = {path.name for path in (tmp_path / "band.parts").iterdir()} - {"lease"}
    assert names == {f"seed-{seed}.zarr" for seed in range(7)}


def test_seeds_of_which_every_point_raises_leave_no_store(tmp_path, blocks_of_three):
    objective, line, held = hills()
    held[1] = lambda x: bool((x[1] != 0) | (x[0] != 0))
    numbers = []

    def looking(seed):
        numbers.append(files_in(tmp_path))
        return ln.Line(line(seed)(np.ones(1)), {"x": torch.tensor([0.0, 1e-3], dtype=torch.float64)})

    with pytest.raises(errors.EvaluationError):
        ln.ensemble(objective, looking, GRID, range(9), store=tmp_path / "e.zarr", check=False, progress=False)
    assert max(numbers) < 10
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- damage, and others


def chunk_of(array):
    return next(path for path in array.rglob("c/**/*") if path.is_file())


def test_what_is_damaged_is_evaluated_again(tmp_path, blocks_of_three):
    objective, line, _ = hills()
    whole = ln.ensemble(objective, line, GRID, range(8), check=False, progress=False)
    store = tmp_path / "band.zarr"
    stopped(store)
    chunk = chunk_of(tmp_path / "band.parts" / "seeds.zarr" / "loss")
    chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    with pytest.warns(errors.DamagedStoreWarning, match="loss"):
        made = ln.ensemble(objective, line, GRID, range(8), store=store, check=False, progress=False)
    np.testing.assert_array_equal(made["loss"], whole["loss"])
    np.testing.assert_array_equal(made["status"], whole["status"])


def test_damaged_grids_that_were_interpolated_are_made_again(tmp_path, blocks_of_three):
    sampler = ln.Adaptive(alpha=(-2, 2), tolerance=0.01)
    objective, line, _ = hills()
    whole = ln.ensemble(objective, line, sampler, range(8), check=False, progress=False)
    store = tmp_path / "band.zarr"
    stopped(store, sampler=sampler)
    chunk = chunk_of(tmp_path / "band.parts" / "seeds.zarr" / "loss")
    chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    with pytest.warns(errors.DamagedStoreWarning):
        made = ln.ensemble(objective, line, sampler, range(8), store=store, check=False, progress=False)
    same(made, whole)


def test_what_cannot_be_read_is_said(tmp_path, blocks_of_three):
    store = tmp_path / "band.zarr"
    stopped(store)
    document = tmp_path / "band.parts" / "seeds.zarr" / "zarr.json"
    said = json.loads(document.read_text())
    said["attributes"]["chart"]["dims"] = "none"
    document.write_text(json.dumps(said))
    objective, line, _ = hills()
    with pytest.raises(errors.OutputExistsError, match=r"seeds\.zarr cannot be resumed.*evaluate its seeds again"):
        ln.ensemble(objective, line, GRID, range(8), store=store, check=False, progress=False)
    shutil.rmtree(document.parent)
    made = ln.ensemble(objective, line, GRID, range(8), store=store, check=False, progress=False)
    same(made, ln.ensemble(objective, line, GRID, range(8), check=False, progress=False))


def test_between_two_seeds_nobody_else_comes_in(tmp_path, blocks_of_three):
    objective, line, _ = hills()
    store, told = tmp_path / "band.zarr", []

    def looking(seed):
        with pytest.raises(errors.StoreBusyError):
            Lease(tmp_path / "band.parts")
        with pytest.raises(errors.StoreBusyError, match="is writing to"):
            ln.ensemble(objective, line, GRID, range(8), store=store, check=False, progress=False)
        told.append(seed)
        return line(seed)

    made = ln.ensemble(objective, looking, GRID, range(4), store=store, check=False, progress=False)
    assert told == [0, 0, 1, 2, 3]  # of the first the sampler is asked too
    same(made, ln.ensemble(objective, line, GRID, range(4), check=False, progress=False))


def test_seeds_after_seeds_are_as_all_at_once():
    objective, line, _ = hills()
    each = [ln.evaluate(objective, line(seed), GRID, check=False) for seed in range(5)]
    whole = seeds_module.join_seeds(each, range(5))
    made = seeds_module.add_seeds(
        seeds_module.join_seeds(each[:2], range(2)), seeds_module.join_seeds(each[2:], range(2, 5))
    )
    xr.testing.assert_identical(made, whole)
    same(seeds_module.of_seeds(whole, [3, 1]), seeds_module.join_seeds([each[3], each[1]], [3, 1]))
    assert [whole.lossnav.seed(seed).attrs["still"] for seed in range(2)] == [each[i].attrs["still"] for i in range(2)]
    assert each[0].attrs["still"] != each[1].attrs["still"]
    other = seeds_module.join_seeds([ln.evaluate(objective, line(5), ln.Grid(alpha=(-1, 2, 9)), check=False)], [5])
    with pytest.raises(errors.OptionError, match="different ranges"):
        seeds_module.add_seeds(whole, other)
