"""Every output is written whole or not at all: on full disks, after kills and interrupts; nothing is left beside it."""

import errno
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import xarray as xr

import lossnav as ln
from lossnav import errors
from lossnav._utils import paths
from lossnav.checkpoints import weights as weights_on_disk
from lossnav.explorer.stored.export_html import write_html
from lossnav.plots.page import Section, write_page
from lossnav.surface import groups

resource = pytest.importorskip("resource")  # not on Windows

OLD = b"what was there before"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A stored plane of a small network."""
    x = torch.linspace(-1, 1, 12).reshape(-1, 2)
    objective = ln.Objective(torch.nn.Linear(2, 1), "mse", (x, x.sum(1, keepdim=True)))
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    place = tmp_path_factory.mktemp("stored") / "run.zarr"
    ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 7)), store=place, check=False)
    return place


def page(surface, path):
    picture = path.parent.parent / "picture.png"
    if not picture.exists():
        picture.write_bytes(b"picture")
    section = Section("title", "text", [], [picture])
    write_page(path, title="t", lead="l", numbers={"a": "b"}, sections=[section], surfaces={"plane": surface})


def weights(surface, path):
    ln.checkpoints.save({"w": torch.arange(3000.0)}, path, overwrite=True)


WRITERS = {
    **{f"plot{end}": lambda s, p: ln.plot.write("contour", s, p, overwrite=True) for end in (".png", ".svg", ".pdf")},
    "plot.html": lambda s, p: ln.plot.write("heatmap", s, p, overwrite=True),
    "film.gif": lambda s, p: ln.plot.animate(s, p, overwrite=True),
    "film.mp4": lambda s, p: ln.plot.animate(s, p, overwrite=True),
    **{f"export{end}": lambda s, p: ln.export(s, p, overwrite=True)
       for end in (".csv", ".json", ".vti", ".vtp", ".glb", ".obj")},
    "explorer.html": lambda s, p: write_html(p.parent.parent / "run.zarr", p, overwrite=True),
    "page.html": page,
    "weights.safetensors": weights,
}  # fmt: skip
SLOW = ("film.gif", "film.mp4")
EVERY = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in WRITERS]
FEW = ("plot.png", "export.csv", "weights.safetensors")  # one of each way to write; of the rest in the slow half
SOME = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in WRITERS]


@pytest.fixture
def surface(store):
    return ln.open(store)


@pytest.fixture
def target(request, store, tmp_path, monkeypatch):
    """A file that is there already, in a folder of its own."""
    name = request.getfixturevalue("name")
    if name.endswith(".mp4") and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    if name in SLOW:  # a turn of three frames
        monkeypatch.setattr("lossnav.plots.animation._TURN", 3)
    (tmp_path / "run.zarr").symlink_to(store)
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / name
    path.write_bytes(OLD)
    return path


@contextmanager
def no_file_above(size):
    """As on a disk with so many bytes left: the system refuses to write beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def assert_old(path):
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("name", EVERY)
def test_a_disk_that_fills_up_leaves_what_was_there(name, surface, target):
    write = WRITERS[name]
    write(surface, target)
    size = target.stat().st_size
    assert size > 1000 and os.listdir(target.parent) == [name]
    for share in (0, 0.97):
        target.write_bytes(OLD)
        with no_file_above(int(share * size)), pytest.raises(errors.StoreError, match="could not write|not be written"):
            write(surface, target)
        assert_old(target)
    target.unlink()
    with no_file_above(size // 2), pytest.raises(errors.StoreError):
        write(surface, target)
    assert os.listdir(target.parent) == []


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_says_so_late_leaves_what_was_there(name, step, surface, target, monkeypatch):
    """A quota of a network disk shows when a file is closed or flushed, not when it is written."""
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], full)
    with pytest.raises(errors.StoreError, match=r"No space left.*Make room and try again, or choose another folder"):
        WRITERS[name](surface, target)
    assert_old(target)


@pytest.mark.parametrize("name", SOME)
def test_ctrl_c_leaves_what_was_there(name, surface, target, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[name](surface, target)
    assert_old(target)


def ended(work):
    """Run something in a child, to its end, and return the child's."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(*arguments, **options):
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("name", [each for each in SOME if each.values[0] not in SLOW])
@pytest.mark.parametrize("step", ["write", "fsync", "before", "after"])
def test_a_killed_process_leaves_the_old_or_the_new(name, step, surface, target, monkeypatch):
    """And what it left beside goes away with the next write of a process into that folder, not with its own readers."""
    WRITERS[name](surface, target)
    new = target.read_bytes()
    target.write_bytes(OLD)
    whole = Path.replace

    def half(path, content):
        path.open("wb", buffering=0).write(content[: len(content) // 2])
        kill()

    def after(path, other):
        whole(path, other)
        kill()

    place = {"write": (Path, "write_bytes", half), "fsync": (os, "fsync", kill), "before": (Path, "replace", kill)}
    if step == "write" and name == "weights.safetensors":
        place = {"write": (weights_on_disk, "save_file", kill)}
    monkeypatch.setattr(*place.get(step, (Path, "replace", after)))
    assert ended(lambda: WRITERS[name](surface, target)) == -9
    monkeypatch.undo()
    if step == "after":
        there = target.read_bytes()
        assert there[-30:] == new[-30:] and abs(len(there) - len(new)) < 100
    else:
        assert target.read_bytes() == OLD
    left = set(os.listdir(target.parent)) - {name}
    assert all(paths.is_scratch(each) for each in left) and len(left) == 1
    other = target.with_name("other.csv")
    assert ended(lambda: ln.export(surface, other)) == 0
    assert sorted(os.listdir(target.parent)) == sorted([name, "other.csv"])


def test_a_write_that_goes_on_is_not_taken_for_one_of_the_dead(tmp_path):
    with paths.replacing(tmp_path / "slow.txt") as new:
        new.write_text("slow")
        assert ended(lambda: paths.write_whole(tmp_path / "quick.txt", "quick")) == 0
    assert (tmp_path / "slow.txt").read_text() == "slow"
    assert sorted(os.listdir(tmp_path)) == ["quick.txt", "slow.txt"]


def test_a_folder_that_was_moved_aside_is_put_back(tmp_path, monkeypatch):
    """Where the system cannot let two folders change places, a kill between two renames leaves neither there."""
    target = tmp_path / "run.zarr"
    target.mkdir()
    (target / "old").touch()
    monkeypatch.setattr(paths, "_exchange", lambda one, other: False)
    rename = Path.rename

    def second(path, other):
        if Path(other) == target:
            kill()
        return rename(path, other)

    def write():
        with paths.replacing(target, folder=True) as new:
            new.mkdir()
            (new / "new").touch()

    monkeypatch.setattr(Path, "rename", second)
    assert ended(write) == -9
    monkeypatch.undo()
    assert not target.exists()
    paths.write_whole(tmp_path / "other.txt", "")
    assert os.listdir(target) == ["old"] and sorted(os.listdir(tmp_path)) == ["other.txt", "run.zarr"]
    write()
    assert os.listdir(target) == ["new"] and sorted(os.listdir(tmp_path)) == ["other.txt", "run.zarr"]


def test_what_lies_there_as_if_left_moves_nothing_out_of_its_folder(tmp_path):
    """A folder of somebody else's may hold what looks like the rest of a killed write."""
    inner = tmp_path / "inner"
    (inner / ".lossnav-abc.partial" / "old").mkdir(parents=True)
    (inner / ".lossnav-abc.partial" / "target").write_text("../planted")
    paths.write_whole(inner / "a.txt", "a")
    assert os.listdir(inner) == ["a.txt"] and os.listdir(tmp_path) == ["inner"]


def test_permissions_and_links_stay(tmp_path):
    real = tmp_path / "real.txt"
    before = os.umask(0o027)
    try:
        paths.write_whole(real, "1")
        assert stat.S_IMODE(real.stat().st_mode) == 0o640  # as open() makes it
        ln.checkpoints.save({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
        assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == 0o640
    finally:
        os.umask(before)
    real.chmod(0o604)
    (tmp_path / "link.txt").symlink_to(real)
    paths.write_whole(tmp_path / "link.txt", "2")
    assert (tmp_path / "link.txt").is_symlink() and real.read_text() == "2"
    assert stat.S_IMODE(real.stat().st_mode) == 0o604


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "Make room and try again, or choose another folder."),
        (errno.EDQUOT, "Your quota is used up: make room and try again, or choose another folder."),
        (errno.EROFS, "Choose a folder of yours."),
        (errno.EACCES, "Choose a folder of yours."),
        (errno.EFBIG, "(ulimit -f, or the file system): raise the limit, or choose another folder."),
        (errno.EIO, "Try again, or choose another folder."),
    ],
)
def test_one_error_says_what_to_do(number, words, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(errors.StoreError) as caught:
        paths.write_whole(tmp_path / "a.txt", "a")
    assert str(caught.value).endswith(words) and os.strerror(number) in str(caught.value)
    assert str(tmp_path / "a.txt") in str(caught.value)


def test_names_that_are_too_long(surface, tmp_path):
    with pytest.raises(errors.OutputNotWritableError, match=r"too long.*shorter name"):
        ln.export(surface, tmp_path / f"{'n' * 300}.csv")
    longest = tmp_path / f"{'n' * 251}.csv"
    assert ln.export(surface, longest).stat().st_size > 1000 and os.listdir(tmp_path) == [longest.name]


def test_a_stored_surface_is_replaced_whole(surface, tmp_path, monkeypatch):
    target = ln.save(surface, tmp_path / "a.zarr")
    with no_file_above(150), pytest.raises(errors.StoreError, match="could not be written") as caught:
        ln.save(surface.isel(alpha=slice(5)), target, overwrite=True)
    assert caught.value.surface.sizes["alpha"] == 5
    assert ln.open(target).equals(surface) and os.listdir(tmp_path) == ["a.zarr"]
    monkeypatch.setattr(shutil, "rmtree", kill)  # after the two changed places
    assert ended(lambda: ln.save(surface.isel(alpha=slice(5)), target, overwrite=True)) == -9
    assert ln.open(target).sizes["alpha"] == 5


def test_a_group_of_a_store_is_replaced_whole(store, surface, tmp_path):
    """A spectrum, a report, a training run beside a surface."""
    target = ln.save(surface, tmp_path / "a.zarr")
    old, new = (surface[["loss"]].isel(alpha=slice(n)).assign_attrs(n=n) for n in (4, 5))
    groups.save_group(old, target, "spectrum")
    for fault in (no_file_above(150), dying_at_rename()):
        with fault, pytest.raises(errors.StoreError, match="spectrum could not be written") as caught:
            groups.save_group(new, target, "spectrum")
        assert caught.value.surface is new
        assert ln.open(target).equals(surface) and os.listdir(tmp_path) == ["a.zarr"]
        assert xr.open_zarr(target, group="spectrum", consolidated=False).sizes["alpha"] == 4
    groups.save_group(new, target, "spectrum")
    assert xr.open_zarr(target, group="spectrum", consolidated=False).sizes["alpha"] == 5
    assert os.listdir(tmp_path) == ["a.zarr"] and not any(map(paths.is_scratch, os.listdir(target)))


@contextmanager
def dying_at_rename():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "swap_in", full)
        yield
