"""Very many points are shown at once: themselves, coarsely what lies between, then finely; nothing is read twice."""

import importlib

import numpy as np
import pytest

import lossnav as ln
from lossnav.explorer.stored import session as sessions
from lossnav.explorer.stored.place import Place
from lossnav.explorer.stored.session import open_session
from lossnav.storage.journal import Row, Rows
from lossnav.surface import assemble, variables, zarr_io
from talking import Browser, unframe


def surface_of(count, k=2, seed=0):
    """Of points that lie anywhere, some failed, some not finite."""
    rng = np.random.default_rng(seed)
    dims = ["alpha", "beta", "gamma"][:k]
    points = rng.uniform(-1, 1, (count, k))
    losses, status = 0.1 + (points**2).sum(1), np.ones(count, np.uint8)
    losses[3], status[3] = np.inf, variables.NON_FINITE
    losses[5], status[5] = np.nan, variables.FAILED
    accuracy = np.where(status == variables.FAILED, np.nan, np.exp(-losses))
    rows = Rows(points, status, {"loss": losses, "accuracy": accuracy})
    attributes = {"chart": {"dims": dims}, "objective": {}, "sampler": {"kind": "Points"}, "engine": {}, "center": {}}
    return assemble.assemble_table(dims, None, rows, attributes)


@pytest.fixture
def many(tmp_path):
    return ln.save(surface_of(1500), tmp_path / "many.zarr")


@pytest.mark.slow
def test_a_page_has_points_first_and_then_finely_what_lies_between(many):
    surface = ln.open(many)
    fine = surface.lossnav.to_grid(201)
    with ln.explore(many, block=False) as running, Browser(running) as page:
        assert page.ask("hello")["frames"] == 2
        (coarse, _), (points, values), (last, finest) = (page.receive() for _ in range(3))
        assert coarse["type"] == "grid" and coarse["interpolated"] and len(coarse["axes"][0]) < 50
        assert points["type"] == "points" and points["count"] == 1500
        for name in ("alpha", "beta", "loss", "accuracy"):
            np.testing.assert_array_equal(values[name], surface[name].values)
        assert last["interpolated"] and last["axes"] == [fine["alpha"].values.tolist(), fine["beta"].values.tolist()]
        for name in ("loss", "accuracy", "status"):
            np.testing.assert_array_equal(finest[name], fine[name].values)
        assert page.ask("hello", id=2)["frames"] == 2  # who comes later has all of it at once
        assert len(page.receive()[0]["axes"][0]) == 201


@pytest.mark.parametrize("k", [1, 3])
def test_lines_and_volumes_too(k):
    place = Place(0, surface_of(1500, k))
    first = [unframe(frame)[0] for frame in place.first_frames()]
    assert [header["type"] for header in first] == ["grid", "points"]
    assert place.first_frames() is not None
    if k == 1:
        assert len(unframe(place.frames()[0])[0]["axes"][0]) == 201
        assert place.first_frames() is None


def test_few_points_and_grids_come_whole():
    assert Place(0, surface_of(300)).first_frames() is None
    assert Place(0, surface_of(300).lossnav.to_grid(50)).first_frames() is None


def test_a_stored_grid_of_many_points_marks_them():
    surface = surface_of(1500)
    ok = surface["status"].values == variables.OK
    points = np.stack([surface["alpha"].values, surface["beta"].values], axis=1)[ok]
    header, _ = unframe(Place(0, surface.lossnav.to_grid(50)).frames()[0])
    assert header["measured"] == points.tolist()
    assert unframe(Place(0, surface).frames()[0])[0]["measured"] is None  # which has a frame of points


def test_a_store_is_read_once_and_nothing_is_made_of_each_point(many, monkeypatch):
    read, opened = [], zarr_io.open_surface
    monkeypatch.setattr(zarr_io, "open_surface", lambda place: read.append(str(place)) or opened(place))
    monkeypatch.setattr(importlib.import_module("lossnav.reports.report"), "open_surface", zarr_io.open_surface)
    monkeypatch.setattr(assemble, "rows_of", lambda *_: pytest.fail("rows were made of all points"))
    session = open_session(many)
    session.message(0)
    place = session.place(0)
    assert len(place.first_frames()) == 2
    assert place.nearest([0.1, 0.2]) is not None
    assert read.count(str(many)) == 1


def test_a_session_says_what_the_report_of_its_store_says(many):
    said = [line["said"] for line in open_session(many).report]
    assert said == [line.said for line in ln.report(many).lines]
    assert sessions.findings_of(ln.open(many))


def test_the_nearest_point_is_that_of_a_look_at_all():
    surface = surface_of(1300)
    points = np.stack([surface["alpha"].values, surface["beta"].values], axis=1)
    place, also = Place(0, surface), Place(0, surface)
    assert also.known  # rows are there: the other way round
    for at in [*np.random.default_rng(1).uniform(-1, 1, (20, 2)), points[3], points[5]]:
        i = int((((points - at) / (place.base[:, 1] - place.base[:, 0])) ** 2).sum(1).argmin())
        row = place.nearest(at)
        assert (row.point == tuple(points[i]) and row == also.nearest(at)) or i == 3
        assert row.status == surface["status"].values[i]
        if row.status == variables.FAILED:
            assert row.values == {}
        else:
            assert row.values["loss"] == surface["loss"].values[i]


def test_what_is_added_is_known_beside_what_is_stored():
    place = Place(0, surface_of(1300), grows=True)
    assert place.get([0.123, 0.456]) is None
    place.add(Row((0.123, 0.456), variables.OK, {"loss": 9.0, "new": 1.0}))
    assert len(place.known) == 1301
    assert place.nearest([0.123, 0.456]).values == {"loss": 9.0, "new": 1.0}
    header, values = unframe(place.first_frames()[1])
    assert header["count"] == 1301 and values["new"][-1] == 1.0 and np.isnan(values["new"][0])
