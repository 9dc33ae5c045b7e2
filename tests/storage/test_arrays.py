"""Nothing of a store changes without a word: one flipped bit anywhere is named, and the rest stays as it was."""

import json
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from typer.testing import CliRunner

import killing
import lossnav as ln
import two_writers
from lossnav import errors
from lossnav.cli import app
from lossnav.storage import journal, keys, reading
from lossnav.surface.assemble import rows_of
from lossnav.surface.run_store import Store

GRID = ln.Grid(alpha=(-1, 1, 70), beta=np.sort(np.random.default_rng(0).uniform(-1, 1, 66)))
SAMPLERS = {"grid": GRID, "points": ln.Points(np.random.default_rng(0).uniform(-1, 1, (60, 2)))}


@pytest.fixture(scope="module", params=SAMPLERS)
def finished(request, tmp_path_factory):
    """A store of a finished run, of its sampler and surface."""
    store = tmp_path_factory.mktemp("run") / "run.zarr"
    sampler = SAMPLERS[request.param]
    made = ln.evaluate(*two_writers.problem(), sampler, store=store, check=False, progress=False)
    return store, sampler, made


def flip(path, dice):
    """Flip one bit of a file."""
    whole = bytearray(path.read_bytes())
    whole[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(whole))


def chunk_files(store):
    return [path for path in sorted(store.rglob("c/**/*")) if path.is_file()]


def opened(store):
    """A store, and the names of what is damaged there."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        surface = ln.open(store)
    return surface, [str(each.message) for each in caught if issubclass(each.category, errors.DamagedStoreWarning)]


def is_part_of(surface, whole):
    """Whether every point that was measured has its values, bit for bit."""
    mine, all_of_them = ({row.point: row for row in rows_of(each)} for each in (surface, whole))
    return mine.items() <= all_of_them.items()


@pytest.mark.slow
def test_one_flipped_bit_of_a_chunk_is_named_and_resumed(finished, tmp_path):
    sound, sampler, made = finished
    dice = random.Random(1)
    for i, file in enumerate([*chunk_files(sound)] * 3):
        store = shutil.copytree(sound, tmp_path / f"{i}.zarr")
        flip(store / file.relative_to(sound), dice)
        surface, said = opened(store)
        name = file.relative_to(sound).parts[0]
        assert len(said) == 1
        assert f"{name}[" in said[0]
        assert is_part_of(surface, made)
        if name not in ("alpha", "beta") or "point" in surface.dims:
            assert (surface["status"] == 1).sum() < (made["status"] == 1).sum()
        else:
            assert surface.equals(made)  # an axis is said by the attributes too
        found = CliRunner().invoke(app, ["info", str(store), "--verify"])
        assert found.exit_code == 1
        assert f"damaged: {name}[" in found.stdout
        with pytest.warns(errors.DamagedStoreWarning):
            again = ln.evaluate(*two_writers.problem(), sampler, store=store, check=False, progress=False)
        assert {row.point: row for row in rows_of(again)} == {row.point: row for row in rows_of(made)}
        assert reading.verify(store).damaged == []
        assert opened(store)[1] == []


@pytest.mark.parametrize("kept_as", ["store", "copy"])
def test_points_whose_coordinates_are_lost_are_asked_for_again(finished, tmp_path, kept_as):
    sound, sampler, made = finished
    store = shutil.copytree(sound, tmp_path / "run.zarr")
    flip(chunk_files(store / "beta")[0], random.Random(3))
    if kept_as == "copy":  # which is not damaged, and holds less
        surface, _ = opened(store)
        store = ln.save(surface, tmp_path / "copy.zarr")
    assert not opened(store)[0].attrs["finished"]
    with warnings.catch_warnings(action="ignore", category=errors.DamagedStoreWarning):
        again = ln.evaluate(*two_writers.problem(), sampler, store=store, check=False, progress=False)
    assert {row.point: row for row in rows_of(again)} == {row.point: row for row in rows_of(made)}
    assert again.attrs["finished"]
    assert opened(store)[0].equals(again)


def test_damage_is_as_large_as_a_tile(finished, tmp_path):
    sound, _, made = finished
    if "point" in made.dims:
        pytest.skip("has one tile")
    store = shutil.copytree(sound, tmp_path / "run.zarr")
    (file,) = chunk_files(store / "loss")
    whole = bytearray(file.read_bytes())
    whole[100] ^= 1  # of the first tile of a shard
    file.write_bytes(bytes(whole))
    surface, said = opened(store)
    assert "loss[0:64, 0:64]" in said[0]
    assert (surface["status"].values == 0).sum() == 64 * 64
    np.testing.assert_array_equal(surface["loss"].values[64:], made["loss"].values[64:])


@pytest.mark.parametrize("name", ["loss", "status", "alpha"])
def test_a_chunk_that_is_gone_is_no_measurement(finished, tmp_path, name):
    sound, _, made = finished
    store = shutil.copytree(sound, tmp_path / "run.zarr")
    shutil.rmtree(store / name / "c")
    surface, said = opened(store)
    assert f"{name}[" in said[0]
    assert is_part_of(surface, made)
    assert reading.verify(store).damaged


def test_one_flipped_bit_of_a_document_is_refused(finished, tmp_path):
    sound, _, made = finished
    dice = random.Random(2)
    documents = [path for path in sound.rglob("zarr.json") if "lease" not in path.parts]
    harmless = 0
    for i, file in enumerate(documents * 4):
        store = shutil.copytree(sound, tmp_path / f"{i}.zarr")
        flip(store / file.relative_to(sound), dice)
        try:
            surface, _ = opened(store)
        except errors.StoreError:
            continue
        assert surface.identical(made)  # a space for a tab
        harmless += 1
    assert harmless < len(documents) * 2


def test_a_flipped_bit_of_a_journal_costs_a_tile(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_ROWS", 8)
    monkeypatch.setattr(Store, "finish", lambda store, surface: surface)  # killed before the fold
    store = tmp_path / "run.zarr"
    whole = ln.evaluate(*killing.problem(), killing.SAMPLERS["grid"], store=store, check=False)
    before = ln.open(store)
    flip(next(path for path in chunk_files(store) if "journal" in path.parts), random.Random(0))
    after, said = opened(store)
    assert "journal/00000001-0001, tile" in said[0]
    assert int((before["status"] != 0).sum() - (after["status"] != 0).sum()) == 8
    assert is_part_of(after, whole)
    assert CliRunner().invoke(app, ["info", str(store), "--verify"]).exit_code == 1


def test_a_sound_store_is_verified(finished):
    store, _, _ = finished
    found = reading.verify(store)
    assert found.damaged == []
    assert found.unchecked == 0
    said = CliRunner().invoke(app, ["info", str(store), "--verify", "--json"])
    assert said.exit_code == 0
    assert json.loads(said.stdout)["checked"] == found.checked > 5


def test_a_store_of_before_there_were_checksums_opens_and_goes_on(finished, tmp_path):
    _, sampler, made = finished
    store = tmp_path / "old.zarr"
    made.to_zarr(store, zarr_format=3, consolidated=False)
    surface, said = opened(store)
    assert said == []
    assert surface.equals(made)
    found = reading.verify(store)
    assert found.checked == 0
    assert found.unchecked > 5
    assert "have no checksum" in CliRunner().invoke(app, ["info", str(store), "--verify"]).stdout
    again = ln.evaluate(*two_writers.problem(), sampler, store=store, check=False)
    assert again.equals(made)


def test_what_lies_beside_a_surface_has_checksums_too(tmp_path):
    from lossnav.surface.groups import open_trajectory, save_group

    path = xr.Dataset(
        {"loss": ("snapshot", [1.0, 2.0]), "status": ("snapshot", np.ones(2, np.uint8))},
        {"alpha": ("snapshot", [0.0, 1.0]), "step": ("snapshot", [0, 1])},
        {"schema": "lossnav.trajectory", "schema_version": 1},
    )
    store = tmp_path / "run.zarr"
    ln.evaluate(*killing.problem(), ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), store=store, check=False)
    save_group(path, store, "trajectory")
    assert open_trajectory(store).equals(path)
    assert reading.verify(store).unchecked == 0
    flip(chunk_files(store / "trajectory" / "loss")[0], random.Random(0))
    with pytest.raises(errors.NotATrajectoryError, match=r"loss\[0:2\] is damaged"):
        open_trajectory(store)
    assert reading.verify(store).damaged == ["trajectory/loss[0:2]"]


def test_samples_have_checksums(tmp_path):
    store = tmp_path / "run.zarr"
    ln.evaluate(*killing.regression(), ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), store=store, keep_samples=True)
    assert reading.verify(store).unchecked == 0
    flip(chunk_files(store / "sample_loss")[0], random.Random(0))
    assert reading.verify(store).damaged == ["sample_loss[0:3, 0:3, 0:37]"]
    with pytest.raises(errors.StoreError, match="sample_loss"):
        ln.open(store)["sample_loss"].load()


def test_the_documents_are_those_that_zarr_reads(finished):
    store, _, made = finished
    plain = xr.open_zarr(store, consolidated=False).load()
    assert plain["loss"].equals(made["loss"])
    assert keys.DIGEST in zarr.open_group(store, mode="r").attrs


def test_a_digest_that_lost_its_name_is_damage(tmp_path):
    objective = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    line = ln.Line(objective.params, {"x": torch.tensor([1.0, 0.0])})
    for array in ("loss", "alpha"):
        place = tmp_path / f"{array}.zarr"
        ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), store=place, progress=False)
        document = place / array / "zarr.json"
        document.write_bytes(document.read_bytes().replace(b'"digest"', b'"digdst"'))
        with pytest.raises(errors.StoreError, match=f"{array}.*was damaged"):
            ln.open(place)
