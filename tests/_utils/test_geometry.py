"""What attributes say of very many points stays small and says the same; what cannot be read again is not written."""

import base64
import json
import struct

import numpy as np
import pytest
from typer.testing import CliRunner

import killing
import lossnav as ln
import two_writers
from lossnav import errors
from lossnav._utils import jsonable
from lossnav._utils.geometry import packed, unpacked
from lossnav._utils.interpolation import Interpolant, interpolants, together
from lossnav.cli import app
from lossnav.samplers import points as samplers
from lossnav.storage import keys
from lossnav.storage.journal import Rows
from lossnav.storage.keys import digest_of
from lossnav.surface import assemble, resample, run_identity, variables

MANY = np.random.default_rng(0).uniform(-1, 1, (1500, 2))


def rows_of(surface):
    """Every point of a surface, by its bits."""
    return {row.point: (row.status, tuple(row.values.items())) for row in assemble.rows_of(surface)}


def stopped_run(store, sampler, after):
    """A run that is stopped after so many points."""

    def at(count):
        if count > after:
            raise KeyboardInterrupt

    with pytest.raises(ln.Interrupted):
        ln.evaluate(*two_writers.problem(at), sampler, store=store, check=False, progress=False)


# ---------------------------------------------------------------------- numbers in JSON


@pytest.mark.parametrize("rows", [0, 1, 1000, 1001, 5000])
@pytest.mark.parametrize("k", [None, 1, 3])
def test_numbers_come_back_bit_by_bit(rows, k):
    values = np.random.default_rng(rows).standard_cauchy(rows if k is None else (rows, k))
    if rows and k is None:
        values[[0, rows // 2, -1]] = np.inf, np.nan, -0.0
    said = json.loads(json.dumps(packed(values), allow_nan=False))
    back = unpacked(said, k)
    assert back.shape == values.shape and back.tobytes() == values.tobytes()
    assert isinstance(said, str) == (rows > 1000)


def test_a_text_is_what_the_schema_says_it_is():
    values = [0.5 * i for i in range(1200)]
    assert base64.b64decode(packed(np.array(values))) == struct.pack("<1200d", *values)


# ---------------------------------------------------------------------- a list of points


@pytest.mark.parametrize("count", [3, 1000, 1001, 1500])
def test_points_are_made_again_from_what_they_say(count):
    asked = ln.Points(MANY[:count])
    again = ln.Points.again(json.loads(json.dumps(asked.describe())))
    assert again.dims == asked.dims and again.places.tobytes() == asked.places.tobytes()


def test_a_stopped_run_of_many_points_goes_on_from_its_store_alone(tmp_path):
    store = tmp_path / "run.zarr"
    stopped_run(store, ln.Points(MANY), 700)
    there = rows_of(ln.open(store))
    assert 0 < len(there) < len(MANY)
    whole = ln.evaluate(*two_writers.problem(), ln.Points(MANY), check=False, progress=False)
    calls = []
    objective, chart = two_writers.problem(calls.append)
    again = ln.Points.again(ln.open(store).attrs["sampler"])
    calls.clear()
    made = ln.evaluate(objective, chart, again, store=store, check=False, progress=False)
    assert rows_of(made) == rows_of(whole) == rows_of(ln.open(store))
    assert len(calls) - (len(MANY) - len(there)) in range(10)  # nothing twice but a look at the probe points
    np.testing.assert_array_equal(made["loss"].values, two_writers.truth(MANY))
    assert made.attrs["plan_hash"] == whole.attrs["plan_hash"]


@pytest.mark.parametrize("change", [(1200, 1, 1e-9), (0, 0, 1e-15)])
def test_a_list_that_differs_in_one_number_is_another_run(tmp_path, change):
    store = tmp_path / "run.zarr"
    stopped_run(store, ln.Points(MANY), 20)
    other = MANY.copy()
    i, j, by = change
    other[i, j] += by
    with pytest.raises(errors.PlanMismatchError, match="sampler.places") as caught:
        ln.evaluate(*two_writers.problem(), ln.Points(other), store=store, check=False, progress=False)
    assert len(str(caught.value)) < 1000


def test_of_too_many_points_a_hash_is_kept_and_the_same_call_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, "_MOST", 2000)
    store = tmp_path / "run.zarr"
    stopped_run(store, ln.Points(MANY), 30)
    said = ln.open(store).attrs["sampler"]
    assert "places" not in said and said["points"] == len(MANY)
    with pytest.raises(errors.SamplerError, match=r"1,500 points were too many.*same call of ln\.evaluate"):
        ln.Points.again(said)
    with pytest.raises(errors.PlanMismatchError, match="sampler.places_hash"):
        ln.evaluate(*two_writers.problem(), ln.Points(MANY[::-1]), store=store, check=False, progress=False)
    made = ln.evaluate(*two_writers.problem(), ln.Points(MANY), store=store, check=False, progress=False)
    np.testing.assert_array_equal(made["loss"].values, two_writers.truth(MANY))


@pytest.mark.parametrize(
    "text",
    ["no base64!", base64.b64encode(b"1234567").decode(), packed(np.full(1200, np.nan)), packed(np.full(1200, 1e200))],
    ids=["letters", "bytes", "nan", "huge"],
)
@pytest.mark.parametrize("where", ["sampler", "interpolation"])
def test_a_text_that_is_none_is_refused_when_it_is_opened(tmp_path, text, where):
    store = tmp_path / "run.zarr"
    ln.evaluate(*two_writers.problem(), ln.Points(MANY[:9]), store=store, check=False, progress=False)
    said = json.loads((store / "zarr.json").read_text())
    said["attributes"].setdefault(where, {})["places" if where == "sampler" else "measured"] = text
    said["attributes"]["digest"] = digest_of(said)
    (store / "zarr.json").write_text(json.dumps(said))
    with pytest.raises(errors.NotASurfaceError, match="not as its schema says"):
        ln.open(store)
    done = CliRunner().invoke(app, ["info", str(store)])
    assert done.exit_code == 1 and "Traceback" not in done.output


def test_numbers_that_make_no_points_are_refused():
    said = ln.Points(MANY).describe() | {"places": packed(np.zeros(2001))}
    with pytest.raises(errors.SamplerError, match="do not have 2 coordinates"):
        ln.Points.again(said)


# ---------------------------------------------------------------------- a run that is finished


def adaptive(**options):
    return ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), **{"start": 6, "tolerance": 1e-3, "max_points": 60, **options})


@pytest.mark.parametrize("keep_samples", [False, True])
def test_a_finished_run_is_not_asked_for_again(tmp_path, monkeypatch, keep_samples):
    store, problem = tmp_path / "run.zarr", killing.regression if keep_samples else two_writers.problem
    options = {"store": store, "check": False, "progress": False, "keep_samples": keep_samples}
    made = ln.evaluate(*problem(), adaptive(), **options)
    asked = []
    rounds = ln.Adaptive.rounds
    monkeypatch.setattr(ln.Adaptive, "rounds", lambda sampler: asked.append(sampler) or rounds(sampler))
    again = ln.evaluate(*problem(), adaptive(), **options)
    assert not asked
    assert again.identical(made) and ln.open(store).identical(made)
    more = ln.evaluate(*problem(), adaptive(max_points=90), **options)
    assert len(asked) == 1 and more.sizes["point"] > made.sizes["point"]
    assert more.attrs["sampler"]["max_points"] == 90
    ln.evaluate(*problem(), adaptive(max_points=90, tolerance=1e-2), **options)
    assert len(asked) == 2


@pytest.mark.parametrize("left", ["stopped", "failed"])
def test_what_is_left_of_a_run_is_asked_for(tmp_path, left):
    store, calls = tmp_path / "run.zarr", []
    if left == "stopped":
        stopped_run(store, adaptive(), 40)
    else:
        ln.evaluate(*two_writers.problem(), adaptive(), store=store, check=False, progress=False)
        surface = ln.open(store)
        surface["status"].values[7] = variables.FAILED
        ln.save(surface, store, overwrite=True)
    objective, chart = two_writers.problem(calls.append)
    calls.clear()
    made = ln.evaluate(objective, chart, adaptive(), store=store, check=False, progress=False)
    whole = ln.evaluate(*two_writers.problem(), adaptive(), check=False, progress=False)
    assert calls and rows_of(made) == rows_of(whole)
    assert made.attrs["sampler"] == jsonable.jsonable(whole.attrs["sampler"])


def test_a_sampler_that_says_less_than_it_asks_is_asked(tmp_path):
    class Mine(ln.Sampler):
        dims = ("alpha", "beta")

        def __init__(self, count):
            self.count = count

        def rounds(self):
            yield MANY[: self.count]

        def describe(self):
            return {"kind": "Mine"}

    store = tmp_path / "run.zarr"
    for count in (5, 9):
        made = ln.evaluate(*two_writers.problem(), Mine(count), store=store, check=False, progress=False)
        np.testing.assert_array_equal(np.sort(made["loss"].values), np.sort(two_writers.truth(MANY[:count])))


# ---------------------------------------------------------------------- what is too long


@pytest.mark.parametrize("begin", ["evaluate", "save"])
def test_attributes_that_could_not_be_read_again_are_not_written(tmp_path, monkeypatch, begin):
    store, calls = tmp_path / "run.zarr", []
    surface = ln.evaluate(*two_writers.problem(), ln.Points(MANY), check=False, progress=False)
    monkeypatch.setattr(keys, "_LONGEST", 20_000)
    objective, chart = two_writers.problem(calls.append)
    calls.clear()
    run = {
        "evaluate": lambda: ln.evaluate(objective, chart, ln.Points(MANY), store=store, check=False, progress=False),
        "save": lambda: ln.save(surface, store),
    }
    with pytest.raises(errors.StoreError, match=r"MB long, most of it 'sampler'.*Store less"):
        run[begin]()
    assert not calls and not store.exists()
    few = ln.evaluate(*two_writers.problem(), ln.Points(MANY[:9]), store=store, check=False, progress=False)  # fits
    with pytest.raises(errors.StoreError, match="most of it 'sampler'"):
        ln.evaluate(objective, chart, ln.Points(MANY), store=store, overwrite=True, check=False, progress=False)
    assert rows_of(ln.open(store)) == rows_of(few)  # what is there is not given up for it


# ---------------------------------------------------------------------- grids made of many points


def scattered(count, k=2):
    """A surface of points, of which some are not finite and some failed, an accuracy with holes of its own."""
    rng = np.random.default_rng(count)
    points = rng.uniform(-1, 1, (count, k))
    losses, status = 0.1 + (points**2).sum(1), np.ones(count, np.uint8)
    losses[3], status[3] = np.inf, variables.NON_FINITE
    losses[5], status[5] = np.nan, variables.FAILED
    accuracy, margin = np.exp(-losses), points[:, 0] ** 3
    accuracy[[5, 9]] = np.nan
    dims = ["alpha", "beta", "gamma"][:k]
    rows = Rows(points, status, {"loss": losses, "accuracy": accuracy, "margin": margin})
    attributes = {"chart": {"kind": "Plane", "dims": dims}, "objective": {}, "center": {}}
    attributes |= {"sampler": {"kind": "Points"}, "engine": {"kind": "Local"}}
    return assemble.assemble_table(dims, None, rows, attributes)


def test_a_grid_says_its_points_and_is_saved_and_opened_with_them(tmp_path):
    surface = scattered(1600)
    ok = surface["status"].values == variables.OK
    points = assemble.points_of(surface)[ok]
    grid = surface.lossnav.to_grid(15)
    there = ln.open(ln.save(grid, tmp_path / "grid.zarr"))
    assert (tmp_path / "grid.zarr" / "zarr.json").stat().st_size < 200_000
    for made in (grid, there):
        said = made.attrs["interpolation"]
        np.testing.assert_array_equal(unpacked(said["measured"], 2), points)
        for name in ("loss", "accuracy", "margin"):
            np.testing.assert_array_equal(unpacked(said["values"][name]), surface[name].values[ok])


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_marks_on_a_picture_are_the_points(name):
    from lossnav.plots.picture import _measured

    few, many = scattered(300), scattered(1600)
    for surface in (few, many):
        ok = surface["status"].values == variables.OK
        at, values = _measured(surface.lossnav.to_grid(9), name)
        np.testing.assert_array_equal(at, assemble.points_of(surface)[ok])
        np.testing.assert_array_equal(values, surface[name].values[ok])


@pytest.mark.parametrize("count", [200, 1600])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_what_lies_between_is_the_same_without_its_errors(count, k):
    surface = scattered(count, k)
    whole, part = surface.lossnav.to_grid(7), resample.between(surface, 7)
    assert whole.drop_attrs(deep=False).identical(part.drop_attrs(deep=False))
    assert (
        "left_out_error" not in part.attrs["interpolation"] and run_identity.put_together(part.attrs) == "interpolation"
    )


@pytest.mark.parametrize("count", [40, 1600])
def test_variables_that_share_their_points_are_as_each_by_itself(count):
    rng = np.random.default_rng(count)
    points = rng.uniform(-1, 1, (count, 2))
    points[7] = points[8]  # one place, measured twice
    columns = {"a": np.exp(points[:, 0]), "b": points[:, 1], "c": np.exp(points[:, 1]), "d": points.sum(1)}
    columns["c"][4] = np.nan
    places = rng.uniform(-0.9, 0.9, (60, 2))
    made = interpolants(points, columns)
    alone = {name: Interpolant(points, values) for name, values in columns.items()}
    assert [made[name].log for name in "abcd"] == [True, False, True, False]
    for name, found in zip(columns, together(list(made.values()), places), strict=True):
        np.testing.assert_array_equal(made[name].points, alone[name].points)
        np.testing.assert_array_equal(made[name](places), alone[name](places))
        np.testing.assert_allclose(found, alone[name](places), rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(made[name].left_out(), alone[name].left_out())
