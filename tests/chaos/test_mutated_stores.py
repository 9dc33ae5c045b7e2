"""Damaged and hostile stores: one clear error and exit code 1, before anything is allocated; no traceback, no hang."""

import contextlib
import copy
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from benchmarks import chaos_mutations
from typer.testing import CliRunner

import killing
import lossnav as ln
import two_writers
from lossnav import errors
from lossnav.cli import app
from lossnav.storage import journal, keys

GRID = ln.Grid(alpha=(-1, 1, 7), beta=(-1, 1, 6))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    store = tmp_path_factory.mktemp("sound") / "run.zarr"
    ln.evaluate(*two_writers.problem(), GRID, store=store, check=False, progress=False)
    return store


@pytest.fixture
def store(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "run.zarr"))


def change(path, **changes):
    """Change a document as one would who knows of the digest."""
    said = json.loads(path.read_text())
    for key, value in changes.items():
        inner, *rest = key.split("__")
        at = said
        for part in rest:
            at, inner = at[inner], part
        at[inner] = value
    said["attributes"][keys.DIGEST] = keys.digest_of(said)
    path.write_text(json.dumps(said))


def require_refused(store, words):
    """Refused by the library and the command line, in one sentence."""
    with pytest.raises(errors.NotASurfaceError, match=words) as refused:
        ln.open(store)
    assert len(str(refused.value)) < 1000
    for command in (["info", str(store)], ["report", str(store)], ["resume", str(store)]):
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 1, found.output
        assert "Traceback" not in found.stderr


@pytest.mark.parametrize("size", [18_000, 10**9, 2**62])
def test_a_small_store_that_declares_much_is_refused(store, size):
    for name in ("alpha", "beta", "loss", "status"):
        said = json.loads((store / name / "zarr.json").read_text())
        change(store / name / "zarr.json", shape=[size] * len(said["shape"]))
    require_refused(store, r"declare .* GB|must be one of up to")


def test_large_chunks_are_refused(store):
    change(store / "loss" / "zarr.json", chunk_grid__configuration__chunk_shape=[10**6, 10**6])
    require_refused(store, r"chunk_shape.* must be sizes of 1 or more")


def test_a_journal_of_a_fill_value_ends(store):
    columns = ["status", "coordinate 0", "coordinate 1", "loss"]
    for fill in (1.0, 0.0):
        zarr.open_group(store, mode="r+").require_group("journal").create_array(
            f"0000000{int(fill) + 5}-0001",
            shape=(1024 * 10**9, 4), chunks=(1024, 4), dtype="float64",
            fill_value=fill, attributes={"columns": columns},
        )  # fmt: skip
    assert ln.open(store).lossnav.counts["ok"] == 42  # no tile was written


@pytest.mark.parametrize(
    "columns",
    [
        ["a["], ["a[x]"], ["a[9999999, 1]"], ["a[0, 0]", "a[0, 1]"], ["a[0, 0]", "a"], ["a]"], ["loss[0, 0]"],
        ["alpha"], ["status"], ["sample_loss"], ["[0, 0]"], ["a[-1, 0]"], ["a[0, 0][0, 0]"],
    ],
)  # fmt: skip
def test_columns_of_a_journal_are_values_of_a_run(store, columns):
    """An array of other columns is none of this run's; one of a value more is."""
    whole = ln.open(store)
    root = zarr.open_group(store, mode="r+")
    names = ["status", "coordinate 0", "coordinate 1", *dict.fromkeys(["loss", *columns])]
    for number, named in ((98, names), (99, ["status", "coordinate 0", "coordinate 1", "loss", "more"])):
        array = root.require_group("journal").create_array(
            f"{number:08d}-0001", shape=(8, len(named)), chunks=(8, len(named)), dtype="float64",
            fill_value=float("nan"), attributes={"columns": named},
        )  # fmt: skip
        array[0] = [1, -1.0, -1.0, *[float(number)] * (len(named) - 3)]
    found = ln.open(store)
    assert set(found.data_vars) == {*whole.data_vars, "more"}
    assert float(found["loss"][0, 0]) == 99.0
    again = ln.evaluate(*two_writers.problem(), GRID, store=store, check=False, progress=False)
    assert set(again.data_vars) == {*whole.data_vars, "more"}


@pytest.mark.parametrize("name", ["journal/99999999-0001", "lease/99999999"])
def test_numbers_of_writers_end(store, name):
    """The next number had nine digits, was never seen, and was sought for without end."""
    group, _, last = name.partition("/")
    if group == "journal":
        root = zarr.open_group(store, mode="r+").require_group(group)
        root.create_array(last, shape=(4, 4), chunks=(4, 4), dtype="float64")
    else:
        there = next(path for path in (store / "lease").iterdir() if path.is_dir())
        shutil.copytree(there, store / name)
    with pytest.raises(errors.StoreError, match="names a writer 99,999,999"):
        ln.evaluate(*two_writers.problem(), GRID, store=store, check=False, progress=False)


@pytest.mark.parametrize("kind", ["folder", "garbage", "empty", "nothing"])
def test_a_lease_that_cannot_be_read_is_passed_over(store, kind):
    """A folder in its place was tried for without end."""
    (document,) = (store / "lease").glob("*/zarr.json")
    document.unlink()
    if kind == "folder":
        document.mkdir()
    elif kind != "nothing":
        document.write_bytes(b"" if kind == "empty" else b"{}")
    whole = ln.open(store)
    for _ in range(2):
        again = ln.evaluate(*two_writers.problem(), GRID, store=store, check=False, progress=False)
        assert again["loss"].equals(whole["loss"])


def test_one_that_is_stopped_while_it_takes_the_lease(tmp_path, monkeypatch):
    """Nobody says yet who writes; it is waited for, but not without end."""
    import fcntl

    from lossnav.storage import lease

    waits = []
    monkeypatch.setattr(lease, "_wait", waits.append)
    (tmp_path / "run.zarr" / "lease").mkdir(parents=True)
    held = os.open(tmp_path / "run.zarr" / "lease", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(errors.StoreBusyError, match="has started to write to"):
        lease.Lease(tmp_path / "run.zarr")
    os.close(held)
    assert len(waits) == lease._PATIENCE
    lease.Lease(tmp_path / "run.zarr").release()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308, -1e200])
def test_coordinates_are_finite(store, value):
    array = zarr.open_group(store, mode="r+")["alpha"]
    values = array[...]
    values[-1] = value
    array[...] = values
    require_refused(store, "'alpha' has values that are not numbers")


def test_an_axis_increases(store):
    array = zarr.open_group(store, mode="r+")["alpha"]
    array[...] = array[...][::-1]
    require_refused(store, "'alpha' does not increase")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attributes__chart": []}, "chart is .* and must be a mapping"),
        ({"attributes__chart__dims": ["x" * 300, "beta"]}, "name of up to 255"),
        ({"attributes__chart__directions": [{"kind": "pca"}]}, 'must be a mapping with "explained"'),
        (
            {"attributes__chart__directions": [{"kind": "given", "norm": "nan"}] * 2},
            "norm is 'nan', and must be a finite",
        ),
        (
            {"attributes__chart__directions": [{"kind": "given"}]},
            "chart.directions is 1, and must be one for each of 2",
        ),
        ({"attributes__sampler__axes__alpha": [-1, 1, 10**9]}, "number of points up to"),
        ({"attributes__engine": "fast"}, "engine is 'fast'"),
        ({"attributes__center": {"loss": "high"}}, "center.loss is 'high'"),
        ({"attributes__failures": 3}, "failures is 3"),
        ({"attributes__schema_version": True}, "version"),
    ],
)
def test_attributes_are_as_the_schema_says(store, changes, words):
    change(store / "zarr.json", **changes)
    require_refused(store, words)


def test_a_link_to_nowhere(store, tmp_path):
    (tmp_path / "link.zarr").symlink_to("nowhere")
    require_refused(tmp_path / "link.zarr", "cannot be opened as Zarr")
    with pytest.raises(errors.StoreError):
        ln.evaluate(*two_writers.problem(), two_writers.GRID, store=tmp_path / "link.zarr", check=False)
    shutil.rmtree(store / "loss" / "c")
    (store / "loss" / "c").symlink_to("/nowhere/at/all")
    require_refused(store, "loss/c cannot be read")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_device_is_no_chunk(store):
    chunk = next(path for path in (store / "loss" / "c").rglob("*") if path.is_file())
    chunk.unlink()
    chunk.symlink_to("/dev/zero")
    require_refused(store, "neither a file nor a folder")


def test_long_names_of_stores(sound, tmp_path):
    name = "x" * 245 + ".zarr"
    surface = ln.open(sound)
    assert ln.open(ln.save(surface, tmp_path / name)).identical(surface)
    with pytest.raises(errors.StoreError):
        ln.save(surface, tmp_path / ("x" * 300 + ".zarr"))
    with pytest.raises(errors.StoreError):
        ln.open(tmp_path / ("x" * 300 + ".zarr"))


@pytest.mark.slow
def test_what_a_store_does_not_say_is_an_error_of_ours(store):
    """Whatever is dropped from its attributes: info, report and resume say so in a sentence, or do without."""
    whole = json.loads((store / "zarr.json").read_text())
    places = [at for at in chaos_mutations._places(whole["attributes"]) if not isinstance(at[-1], int)]
    assert len(places) > 60
    for at in places:
        said = json.loads(json.dumps(whole))
        inner = said["attributes"]
        for key in at[:-1]:
            inner = inner[key]
        del inner[at[-1]]
        said["attributes"][keys.DIGEST] = keys.digest_of(said)
        (store / "zarr.json").write_text(json.dumps(said))
        for command in (["info", str(store)], ["report", str(store)]):
            done = CliRunner().invoke(app, command)
            assert done.exit_code in (0, 1) and isinstance(done.exception, SystemExit | None), (at, done.exception)
        with contextlib.suppress(errors.LossnavError):
            ln.resume(store, two_writers.problem()[0], progress=False)
        with contextlib.suppress(errors.LossnavError):
            ln.evaluate(*two_writers.problem(), GRID, store=store, check=False, progress=False)
        (store / "zarr.json").write_text(json.dumps(whole))


def test_what_is_read_from_a_document_says_what_it_lacks(store):
    said = ln.open(store).attrs["chart"]
    with pytest.raises(errors.MissingAttributeError, match="has no attribute 'nothing'"):
        said["nothing"]
    with pytest.raises(errors.MissingAttributeError):
        said["directions"][0]["nothing"]
    assert said.get("nothing") is None
    assert "nothing" not in said
    again = pickle.loads(pickle.dumps(copy.deepcopy(said)))
    assert again == said == json.loads(json.dumps(said))


def test_directions_that_were_kept_and_damaged(store):
    from lossnav._utils.paths import beside

    for content in (b"", b"no safetensors", b"\x80\x05]\x94.", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}"):
        Path(beside(store)).write_bytes(content)
        with pytest.raises(errors.ChartError, match="saved in .*(cannot be read|lack tensors)|differs"):
            ln.resume(store, two_writers.problem()[0], progress=False)


def test_an_ensemble_holds_together(tmp_path):
    objective, _ = killing.regression()
    lines = lambda seed: ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=seed))  # noqa: E731
    store = tmp_path / "ensemble.zarr"
    ln.ensemble(objective, lines, ln.Grid(alpha=(-1, 1, 5)), range(3), store=store, progress=False)
    whole = json.loads((store / "zarr.json").read_text())["attributes"]["ensemble"]
    writer = journal.Journal(zarr.open_group(store, mode="r+"))
    writer.append(journal.Row((0.5,), 1, {"loss": 2.0}))
    writer.flush()
    with pytest.raises(errors.NotASurfaceError, match="of several seeds, and has rows of a run in its journal"):
        ln.open(store)
    shutil.rmtree(store / "journal")
    for changed, words in (
        (whole | {"each": whole["each"][1:]}, r"ensemble\.each is 2, and must be one for each of 3"),
        (whole | {"charts": whole["charts"] * 2}, r"ensemble\.charts is 6"),
        (whole | {"seeds": [0, 1, 1]}, "each is there once"),
        (whole | {"seeds": [0, 1, 7]}, "seeds of this surface differ from those"),
    ):
        change(store / "zarr.json", attributes__ensemble=changed)
        with pytest.raises(errors.NotASurfaceError, match=words):
            ln.open(store)


def test_mutations_are_drawn_by_their_seed(sound, tmp_path):
    said = []
    for i in range(2):
        copy = Path(shutil.copytree(sound, tmp_path / f"{i}" / "run.zarr"))
        said.append([chaos_mutations.mutate(copy, random.Random(seed)) for seed in range(8)])
    assert said[0] == said[1]


def test_a_file_that_goes_while_it_is_looked_for_is_none(store, monkeypatch):
    """A writer's scratch file has its name by the time a reader looks: readers are not in the way, nor refused."""
    whole, walk = ln.open(store), os.walk

    def listed(folder, *options, **more):
        for at, folders, files in walk(folder, *options, **more):
            yield at, folders, [*files, "zarr.0123.partial"]

    monkeypatch.setattr(os, "walk", listed)
    assert ln.open(store).identical(whole)
    (store / "loss" / "zarr.0123.partial").symlink_to("nowhere")
    require_refused(store, "cannot be read")
