"""Films: as many frames as views or snapshots, what moves moves, what does not stays."""

import shutil
import subprocess

import numpy as np
import pytest
import xarray as xr
from PIL import Image, ImageSequence

import lossnav as ln
from commands import lossnav
from conftest import made
from lossnav import errors
from lossnav.plots import animation


@pytest.fixture
def dish():
    values = 0.1 + np.add.outer(np.linspace(-1, 2, 9) ** 2, np.linspace(-1, 2, 9) ** 2)
    values[8, 8] = np.inf
    return made(values)


@pytest.fixture
def path():
    t = np.linspace(1, 0, 5)
    places = {"alpha": ("snapshot", t), "beta": ("snapshot", -(t**2))}
    return xr.Dataset({**places, "loss": ("snapshot", 0.1 + t**2 + t**4)})


def look(path):
    with Image.open(path) as film:
        shown = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(film)]
        film.seek(0)
        seconds = []
        for i in range(film.n_frames):
            film.seek(i)
            seconds.append(film.info["duration"] / 1000)
        return shown, seconds


def test_a_surface_turns_once(dish, tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "_TURN", 6)
    shown, seconds = look(ln.plot.animate(dish, tmp_path / "turn.gif", log=True))
    assert len(shown) == 6
    assert sum(seconds) == pytest.approx(6, abs=0.1)
    assert {frame.shape for frame in shown} == {(468, 600, 3)}
    for before, after in zip(shown, [*shown[1:], shown[0]], strict=True):
        assert 0.02 < (np.abs(before - after).max(2) > 30).mean() < 0.5  # it turns, and title and colour bar stay
    foot, bar = np.s_[-14:], np.s_[150:300, 500:530]
    for part in (foot, bar):
        assert all(np.array_equal(frame[part], shown[0][part]) for frame in shown)
    assert (shown[0][foot] < 200).any()  # the note on the hole


def test_a_path_is_drawn_snapshot_by_snapshot(dish, path, tmp_path):
    shown, seconds = look(ln.plot.animate(dish, trajectory=path, out=tmp_path / "run.gif"))
    assert len(shown) == 5
    assert seconds[-1] == 1.5
    dark = [(frame[60:330].sum(2) < 160).sum() for frame in shown]
    assert dark == sorted(dark)
    assert dark[-1] > dark[0]
    assert (tmp_path / "run.gif").stat().st_size < 200_000


@pytest.mark.parametrize("with_loss", [True, False])
def test_a_frame_holds_the_path_as_far_as_it_went(dish, path, with_loss):
    from matplotlib.figure import Figure

    from lossnav.plots.picture import prepare

    places, losses = animation.path_of(path if with_loss else path.drop_vars("loss"), ("alpha", "beta"))
    figure = Figure(layout="constrained")
    for i, _ in enumerate(animation.draw_path(figure, prepare(dish, "loss", True, 2), places, losses), start=1):
        axes = figure.axes[0]
        (line,) = [line for line in axes.lines if line.get_path_effects()]
        np.testing.assert_array_equal(line.get_xydata(), places[:i])
        assert any(f"snapshot {i} of 5" in text.get_text() for text in axes.texts)
        if losses is not None:
            np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), losses[:i])
    assert len(figure.axes) == 1 + with_loss
    assert axes.get_xlim() == (-1, 2)


def test_a_path_that_leaves_the_plane_widens_the_frame(dish, path):
    from matplotlib.figure import Figure

    from lossnav.plots.picture import prepare

    path["alpha"] = path["alpha"] - 3
    figure = Figure(layout="constrained")
    places, losses = animation.path_of(path, ("alpha", "beta"))
    next(animation.draw_path(figure, prepare(dish, "loss", True, 2), places, losses))
    low, high = figure.axes[0].get_xlim()
    assert low < -3 < -2.5 < high == 2
    assert figure.axes[0].get_ylim() == (-1 - 0.04 * 3, 2) or figure.axes[0].get_ylim() == (-1, 2)
    assert "blank: not measured" in figure.get_supxlabel()


def test_a_long_path_has_no_more_frames_than_eyes_want(dish, tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "_PATH_FRAMES", 7)
    t = np.linspace(-1, 1, 100)
    path = xr.Dataset({"alpha": ("snapshot", t), "beta": ("snapshot", t)})
    shown, seconds = look(ln.plot.animate(dish, trajectory=path, out=tmp_path / "long.gif"))
    assert len(shown) == 7
    assert sum(seconds) < 9


def test_what_makes_no_film_is_said(dish, path, tmp_path, monkeypatch):
    monkeypatch.setattr(animation.shutil, "which", lambda name: None)
    line = made(np.ones(3), dims=("alpha",))
    nan = path.assign(alpha=("snapshot", [0, 1, np.nan, 2, 3]))
    (tmp_path / "there.gif").write_bytes(b"")
    for call, kind, words in (
        (lambda: ln.plot.animate(dish, tmp_path / "a.png"), errors.OptionError, "must end in .gif or .mp4, got '.png'"),
        (lambda: ln.plot.animate(dish, tmp_path / "a.mp4"), errors.MissingExtraError, "apt-get install ffmpeg"),
        (lambda: ln.plot.animate(line, tmp_path / "a.gif"), errors.OptionError, "needs 2 coordinate"),
        (lambda: ln.plot.animate(dish, tmp_path / "there.gif"), errors.OutputExistsError, "exists"),
        (
            lambda: ln.plot.animate(dish, tmp_path / "a.gif", trajectory=path.rename(alpha="x")),
            errors.OptionError,
            r'Pass xr.Dataset\(\{"alpha": \("snapshot", …\)',
        ),
        (
            lambda: ln.plot.animate(dish, tmp_path / "a.gif", trajectory=nan),
            errors.OptionError,
            "5 snapshots, 4 of them with finite",
        ),
        (
            lambda: ln.plot.animate(dish, tmp_path / "a.gif", trajectory=path.isel(snapshot=[0])),
            errors.OptionError,
            "Pass two snapshots or more",
        ),
    ):
        with pytest.raises(kind, match=words):
            call()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["there.gif"]


def test_a_film_that_was_stopped_leaves_nothing(dish, path, tmp_path, monkeypatch):
    class Stopping(animation.Progress):
        def advance(self, units=1):
            raise KeyboardInterrupt

    monkeypatch.setattr(animation, "Progress", Stopping)
    with pytest.raises(KeyboardInterrupt):
        ln.plot.animate(dish, trajectory=path, out=tmp_path / "run.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg: apt-get install ffmpeg")
def test_mp4(dish, path, tmp_path, monkeypatch):
    monkeypatch.setitem(animation._DPI, ".mp4", 61)  # 305 x 317: sizes that are not even
    out = ln.plot.animate(dish, trajectory=path, out=tmp_path / "run.mp4")
    asked = "stream=codec_type,width,height,nb_frames,r_frame_rate,pix_fmt"
    command = ["ffprobe", "-v", "error", "-show_entries", asked, "-of", "default=noprint_wrappers=1", str(out)]
    said = dict(
        line.split("=") for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )
    assert (said["width"], said["height"], said["pix_fmt"]) == ("306", "318", "yuv420p")
    assert int(said["nb_frames"]) == 30 * (4 * 0.5 + 1.5)
    assert [each.name for each in tmp_path.iterdir()] == ["run.mp4"]


def test_an_ffmpeg_that_fails_says_why(dish, path, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").write_text("#!/bin/sh\necho 'Unknown encoder' >&2\nexit 1\n")
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    with pytest.raises(errors.StoreError, match=r"could not write the film: Unknown encoder"):
        ln.plot.animate(dish, trajectory=path, out=tmp_path / "run.mp4")
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.slow
def test_animate_on_the_command_line(dish, tmp_path):
    dish.lossnav.save(tmp_path / "run.zarr")
    done = lossnav("animate", "run.zarr", "-o", "turn.gif", "--log", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "turn.gif") as film:
        assert film.n_frames == 60
    assert (tmp_path / "turn.gif").stat().st_size < 4_000_000
