"""A run that cannot be lost: killed anywhere, stopped, on a full disk, in a cloud."""

import errno
import json
import multiprocessing
import random
import time

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from zarr.storage import LocalStore, MemoryStore

import killing
import lossnav as ln
from lossnav import errors
from lossnav.charts.io import open_chart
from lossnav.storage import journal

GRID = ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 5))


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing", "lossnav.evaluation.evaluate", "lossnav.surface.run_store"])
    return context


def start(processes, target, *arguments):
    process = processes.Process(target=target, args=arguments)
    process.start()
    return process


def known(store):
    """Points that a store knows, with their values; readable at any moment, by us and by xarray alone."""
    if not store.exists() or not (store / "zarr.json").exists():
        return {}
    surface = ln.open(store)
    losses = surface.lossnav.points()
    return {tuple(point): loss for point, loss in zip(losses[0].tolist(), losses[1], strict=True)}


def same(a, b):
    assert a["loss"].equals(b["loss"])
    assert a["status"].equals(b["status"])
    assert a.attrs["plan_hash"] == b.attrs["plan_hash"]
    assert a.attrs["sampler"] == b.attrs["sampler"]


# ---------------------------------------------------------------------- killed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "adaptive"])
def test_twenty_runs_killed_at_random_moments_come_to_the_same_bits(processes, tmp_path, kind):
    whole = ln.evaluate(*killing.problem(), killing.SAMPLERS[kind], check=False)
    dice, kills = random.Random(7), 0
    for i in range(10):  # ten of each kind
        store, log = tmp_path / f"{i}.zarr", tmp_path / f"{i}.log"
        evaluated: list[tuple[float, float]] = []
        for _ in range(40):
            before = known(store)
            process = start(processes, killing.run, kind, store, log)
            enough = len(evaluated) + dice.randrange(10, 100)  # points, not seconds: Adaptive may think for longer
            while len(killing.points_in(log)) < enough and process.is_alive():
                process.join(0.002)
            process.kill()
            process.join()
            kills += process.exitcode != 0
            session = killing.points_in(log)[len(evaluated) :]
            evaluated += session
            after = known(store)
            assert before.items() <= after.items()  # nothing is ever lost
            assert not set(session) & set(before)  # and nothing known is computed again
            lost = [point for point in session if point not in after]
            assert lost == session[len(session) - len(lost) :]  # but for the tile under way
            assert len(lost) <= journal._ROWS + 1
            if process.exitcode == 0:
                break
        same(ln.open(store), whole)
        assert "journal" not in zarr.open_group(store, mode="r")
        xr.open_zarr(store, consolidated=False).load()
    assert kills >= 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "adaptive"])
def test_killed_at_every_single_write_a_store_is_sound(processes, tmp_path, kind):
    whole = ln.evaluate(*killing.problem(), killing.SAMPLERS[kind], check=False)
    points = whole.lossnav.points()
    truth = {tuple(point): loss for point, loss in zip(points[0].tolist(), points[1], strict=True)}
    rows, number, exitcode = 24, 0, 9
    while exitcode == 9:
        number += 1
        store, log = tmp_path / f"{number}.zarr", tmp_path / f"{number}.log"
        process = start(processes, killing.run_until_write, kind, store, log, number, rows)
        process.join()
        exitcode = process.exitcode
        assert exitcode in (0, 9)
        found = known(store)
        assert all(truth[point] == loss for point, loss in found.items())
        assert len(found) >= len(killing.points_in(log)) - rows - 1
        same(ln.evaluate(*killing.problem(), killing.SAMPLERS[kind], store=store, check=False), whole)
        same(ln.open(store), whole)
    assert number > 15


def test_sigterm_folds_what_is_there_and_the_run_goes_on(processes, tmp_path):
    store, log = tmp_path / "run.zarr", tmp_path / "log"
    exitcodes = []
    for _ in range(10):
        done = len(killing.points_in(log))
        process = start(processes, killing.run, "grid", store, log, 0.01)
        while len(killing.points_in(log)) < done + 25 and process.is_alive():
            time.sleep(0.005)
        process.terminate()
        process.join()
        exitcodes.append(process.exitcode)
        if process.exitcode == 0:
            break
        assert "journal" not in zarr.open_group(store, mode="r")
        assert (ln.open(store)["status"] != 0).sum() == len(killing.points_in(log))
    assert set(exitcodes) == {0, 143}
    same(ln.open(store), ln.evaluate(*killing.problem(), killing.SAMPLERS["grid"], check=False))
    assert len(killing.points_in(log)) == len(set(killing.points_in(log))) == 13 * 9  # each point once


# ---------------------------------------------------------------------- full


@pytest.mark.parametrize("kind", ["grid", "adaptive"])
def test_a_disk_that_fills_stops_the_run_and_leaves_it_sound(monkeypatch, tmp_path, kind):
    sampler, room, whole_set = killing.SAMPLERS[kind], [0], LocalStore.set
    whole = ln.evaluate(*killing.problem(), sampler, check=False)

    async def full(self, *args, **kwargs):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        await whole_set(self, *args, **kwargs)

    monkeypatch.setattr(journal, "_ROWS", 8)
    monkeypatch.setattr(LocalStore, "set", full)
    store, said = tmp_path / "run.zarr", set()
    for more in range(1, 60):
        room[0] = 2 * more
        try:
            surface = ln.evaluate(*killing.problem(), sampler, store=store, check=False)
            break
        except errors.StoreError as error:
            said.add(str(error))
            if error.surface is not None:  # a full disk at the very start has nothing to carry
                measured = dict(
                    zip(
                        map(tuple, error.surface.lossnav.points()[0].tolist()),
                        error.surface.lossnav.points()[1],
                        strict=True,
                    )
                )
                assert known(store).items() <= measured.items()
    assert len(said) == 1
    assert "No space left on device" in said.copy().pop()
    assert "Make room" in said.pop()
    same(surface, whole)
    same(ln.open(store), whole)


# ---------------------------------------------------------------------- what is in it


def test_a_diverging_surface_is_kept_and_not_computed_again(tmp_path):
    calls = []

    def f(p):
        calls.append(1)
        x = float(p["x"][0])
        return torch.tensor(float("nan") if x < 0 else float("inf") if x > 0.5 else 1 + x)

    objective = ln.Objective.from_function(f, {"x": torch.zeros(2)})
    line = ln.Line(objective.params, {"x": torch.ones(2)})
    for sampler, name in ((ln.Grid(alpha=(-1, 1, 161)), "grid.zarr"), (ln.Adaptive(alpha=(-1, 1)), "points.zarr")):
        calls.clear()
        surface = ln.evaluate(objective, line, sampler, store=tmp_path / name)
        assert surface.lossnav.counts["non-finite"] > 5
        done = len(calls)
        again = ln.evaluate(objective, line, sampler, store=tmp_path / name)
        assert len(calls) == done + 2  # the centre, to see that it is the same loss
        assert again.equals(surface)
        assert ln.open(tmp_path / name).identical(again)
        figure = ln.plot.line(again, backend="matplotlib")
        drawn = figure.axes[0].lines[0].get_ydata()
        assert np.isnan(drawn).any()
        assert np.isfinite(drawn).any()
    nothing = ln.Objective.from_function(lambda p: p["x"].sum() * float("nan"), {"x": torch.zeros(2)})
    line = ln.Line(nothing.params, {"x": torch.ones(2)})
    ln.evaluate(nothing, line, ln.Grid(alpha=(-1, 1, 9)), store=tmp_path / "nan.zarr", check=False)
    assert ln.open(tmp_path / "nan.zarr").lossnav.counts["non-finite"] == 9


def test_a_store_is_a_surface_while_the_run_goes_on(tmp_path):
    seen = []

    def look(surface):
        seen.append((ln.open(tmp_path / "run.zarr"), xr.open_zarr(tmp_path / "run.zarr", consolidated=False).load()))

    surface = ln.evaluate(*killing.problem(), GRID, store=tmp_path / "run.zarr", check=False, on_update=look)
    assert [int(ours["status"].sum()) for ours, _ in seen][-1] > 0
    assert all(not ours.attrs["finished"] for ours, _ in seen[:-1])
    assert seen[-1][0].identical(surface)
    assert seen[-1][1]["loss"].equals(surface["loss"])
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize("place", ["memory://a/run.zarr", MemoryStore()])
@pytest.mark.parametrize("sampler", [GRID, killing.SAMPLERS["adaptive"]])
def test_stores_behind_urls(place, sampler):
    calls = []
    objective, plane = killing.problem()
    whole = ln.evaluate(objective, plane, sampler, check=False)
    evaluate = objective.evaluate

    def dying(params):
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return evaluate(params)

    objective.evaluate = dying
    with pytest.raises(ln.Interrupted, match="To resume, repeat the same call"):
        ln.evaluate(objective, plane, sampler, store=place, overwrite=True, check=False)
    assert (ln.open(place)["status"] != 0).sum() == 29
    same(ln.evaluate(objective, plane, sampler, store=place, check=False), whole)
    same(ln.open(place), whole)
    total = int((whole["status"] != 0).sum())
    assert len(calls) == total + 1


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises((errors.MissingExtraError, errors.OutputNotWritableError), match="nowhere://"):
        ln.evaluate(*killing.problem(), GRID, store="nowhere://run.zarr")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(errors.OutputExistsError):
        ln.evaluate(*killing.problem(), GRID, store=tmp_path / "file", overwrite=True)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(errors.OutputExistsError, match="no surface of ours"):
        ln.evaluate(*killing.problem(), GRID, store=tmp_path / "other.zarr")


def test_points_that_failed_are_tried_again_and_others_are_not(tmp_path):
    broken, calls = [True], []

    def f(p):
        calls.append(float(p["x"][0]))
        if broken[0] and calls[-1] > 0.5:
            raise RuntimeError("worn out")
        return p["x"].sum()

    objective = ln.Objective.from_function(f, {"x": torch.zeros(1)})
    line, grid = ln.Line(objective.params, {"x": torch.ones(1)}), ln.Grid(alpha=(-1, 1, 9))
    with pytest.warns(errors.PointsFailedWarning):
        part = ln.evaluate(objective, line, grid, store=tmp_path / "run.zarr")
    assert part.attrs["finished"]
    broken.clear()
    broken.append(False)
    calls.clear()
    whole = ln.evaluate(objective, line, grid, store=tmp_path / "run.zarr")
    assert whole.lossnav.counts["ok"] == 9
    assert sorted(calls[2:]) == [0.75, 1.0]
    assert whole.attrs["created"] == part.attrs["created"]


def test_another_plan_is_refused_item_by_item(objective, plane, tmp_path):
    place, grid = tmp_path / "run.zarr", ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))
    made = ln.evaluate(objective, plane, grid, store=place)
    other = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=1))
    changes = {
        "chart.directions[0].seed: was 0, is 1": (objective, other, grid, {}),
        "sampler.axes.alpha: was [-1.0, 1.0, 3], is": (
            objective,
            plane,
            ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 3)),
            {},
        ),
        "engine.precision: was 'native', is 'float64'": (
            objective,
            plane,
            grid,
            {"engine": ln.Local(precision="float64")},
        ),
        "objective.population: was None, is 23": (objective.subset(9), plane, grid, {}),
    }
    for words, (asked, chart, sampler, options) in changes.items():
        with pytest.raises(errors.PlanMismatchError, match="run.zarr contains another run") as refused:
            ln.evaluate(asked, chart, sampler, store=place, **options)
        assert words in str(refused.value)
        assert "overwrite=True" in str(refused.value)
    assert ln.open(place).identical(made)
    assert ln.evaluate(objective, plane, grid, store=place, overwrite=True).equals(made)


def test_a_store_of_interpolated_values_is_not_gone_on_from(tmp_path):
    grid = ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 9))
    partial = next(ln.stream(*killing.problem(), grid, check=False))
    ln.save(partial.lossnav.to_grid(), tmp_path / "run.zarr")
    with pytest.raises(
        errors.PlanMismatchError, match="not the measurement of one run: its attributes contain interpolation"
    ):
        ln.evaluate(*killing.problem(), grid, store=tmp_path / "run.zarr", check=False)


def test_directions_of_one_call_are_drawn_together_again(objective):
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, lazy=True))
    again = open_chart(plane.describe(), objective)
    assert again.describe() == plane.describe()
    assert again.directions[0].family is again.directions[1].family


def test_another_version_is_refused(objective, plane, tmp_path, monkeypatch):
    grid = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))
    ln.evaluate(objective, plane, grid, store=tmp_path / "run.zarr")
    monkeypatch.setattr("lossnav.evaluation.provenance.__version__", "9.9")
    with pytest.raises(errors.PlanMismatchError, match=f"lossnav_version: was '{ln.__version__}', is '9.9'"):
        ln.evaluate(objective, plane, grid, store=tmp_path / "run.zarr")


# ---------------------------------------------------------------------- from the store alone


@pytest.mark.parametrize(("off", "refused"), [(1e-14, False), (1e-6, True)])
def test_the_last_digits_of_norms_are_those_of_the_threads_that_summed_them(
    objective, plane, tmp_path, monkeypatch, off, refused
):
    place, grid = tmp_path / "run.zarr", ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))
    made, describe = ln.evaluate(objective, plane, grid, store=place), ln.Plane.describe

    def elsewhere(chart):
        said = describe(chart)
        recipes = [recipe | {"norm": recipe["norm"] * (1 + off)} for recipe in said["directions"]]
        return said | {"directions": recipes, "cosines": {key: value + off for key, value in said["cosines"].items()}}

    monkeypatch.setattr(ln.Plane, "describe", elsewhere)
    if refused:
        with pytest.raises(errors.PlanMismatchError, match=r"chart\.cosines\.\S+ was"):
            ln.evaluate(objective, plane, grid, store=place)
        return
    again = ln.evaluate(objective, plane, grid, store=place)
    assert again.equals(made)
    assert again.attrs["plan_hash"] == made.attrs["plan_hash"]


@pytest.mark.parametrize(
    "sampler",
    [
        ln.Grid(alpha=[-1, 0.1, 1], beta=(-1, 1, 4)),
        ln.Grid(alpha=("auto", 3), beta=(-1, 1, 2)),
        ln.Adaptive(alpha=(-1, 1), beta=(0, 1), start=1, max_points=9),
        ln.Points([(0, 0), (1, -1)]),
    ],
)
def test_a_run_is_made_again_from_its_store(objective, plane, tmp_path, sampler):
    made = ln.evaluate(objective, plane, sampler, store=tmp_path / "run.zarr")
    calls = []
    resumed = ln.resume(tmp_path / "run.zarr", objective, on_update=calls.append)
    assert resumed.equals(made)
    assert resumed.attrs["plan_hash"] == made.attrs["plan_hash"]


@pytest.mark.parametrize("place", ["run.zarr", "memory://kept/run.zarr"])
def test_kept_directions_need_no_recipe(objective, tmp_path, place):
    place = place if "://" in place else tmp_path / place
    noise = {name: torch.randn(tensor.shape) for name, tensor in objective.params.items()}
    line, grid = ln.Line(objective.params, noise), ln.Grid(alpha=(-1, 1, 3))
    made = ln.evaluate(objective, line, grid, store=place, overwrite=True)
    with pytest.raises(errors.ChartError, match="save_directions=True"):
        ln.resume(place, objective)
    ln.evaluate(objective, line, grid, store=place, overwrite=True, save_directions=True)
    assert ln.resume(place, objective).equals(made)
    with pytest.raises(errors.OptionError, match="Pass store="):
        ln.evaluate(objective, line, grid, save_directions=True)


def test_a_journal_takes_rows_with_more_values(tmp_path):
    root = zarr.open_group(tmp_path / "j.zarr", mode="w")
    writer = journal.Journal(root)
    rows = [
        journal.Row((0.0, 0.1), 3, {}),
        journal.Row((0.5, 1 / 3), 1, {"loss": 1 / 7}),
        journal.Row((1.0, -0.0), 2, {"loss": float("inf"), "accuracy": float("nan")}),
    ]
    writer.append(rows[0])
    assert journal.read(root) == []  # not before the tile is written
    for row in rows[1:]:
        writer.append(row)
    writer.flush()
    found = journal.read(root)
    assert [row[:2] for row in found] == [row[:2] for row in rows]
    assert found[1].values == {"loss": 1 / 7}
    assert json.dumps(found[2].values) == json.dumps(rows[2].values)


def test_a_url_of_this_machine_is_a_path(tmp_path):
    url = (tmp_path / "a folder" / "run.zarr").as_uri()
    surface = ln.evaluate(*killing.problem(), GRID, store=url, save_directions=True, check=False)
    same(ln.open(url), surface)
    assert sorted(path.name for path in (tmp_path / "a folder").iterdir()) == ["run.directions.safetensors", "run.zarr"]
