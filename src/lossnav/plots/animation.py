"""Animations: a surface that rotates in three dimensions, or a path drawn over contours, snapshot by snapshot."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav._utils.paths import replacing, write_whole
from lossnav._utils.progress import Progress
from lossnav.errors import MissingExtraError, OptionError, StoreError
from lossnav.plots import contours, surface3d
from lossnav.plots.picture import Picture
from lossnav.plots.style import finish

ENDINGS = (".gif", ".mp4")

_TURN, _TURN_SECONDS = 60, 6.0  # frames of a whole turn, and how long it takes
_PATH_FRAMES, _PATH_SECONDS, _HOLD = 120, 6.0, 1.5  # most frames of a path, how long it takes, and its last picture
_DPI = {".gif": 120, ".mp4": 240}
_PALETTE = 128  # colours of a GIF: a colour map, greys and two marks need no more
_PATH_COLOR = "#1d2530"

Snapshots = tuple[NDArray[np.float64], NDArray[np.float64] | None]  # places (n, 2), and losses (n,) if known
Frame = tuple[NDArray[np.uint8], float]  # red, green, blue of shape (height, width, 3), and the seconds it is shown


def path_of(path: xr.Dataset, dims: tuple[str, ...]) -> Snapshots:
    """Coordinates of a path's snapshots on a plane, shape (n, 2), and its losses, shape (n,), if it has any.

    Raises
    ------
    OptionError
        If the path lacks a coordinate of the plane, has fewer than two snapshots, or is not finite.
    """
    if not all(dim in path.variables and path[dim].dims == ("snapshot",) for dim in dims):
        needed = ", ".join(f'"{dim}": ("snapshot", …)' for dim in dims)
        raise OptionError(
            f"This path has no coordinates of its snapshots on ({', '.join(dims)}). Pass xr.Dataset({{{needed}}})."
        )
    places = np.stack([np.asarray(path[dim].values, np.float64) for dim in dims], axis=1)
    finite = np.isfinite(places).all(1)
    if len(places) < 2 or not finite.all():
        raise OptionError(
            f"The path has {len(places)} snapshots, {int(finite.sum())} of them with finite coordinates. "
            "Pass two snapshots or more, all of them finite."
        )
    return places, np.asarray(path["loss"].values, np.float64) if "loss" in path.variables else None


def turn(figure: Any, picture: Picture) -> Iterator[float]:
    """Draw a surface into a matplotlib figure and rotate it once; yield the duration of each view in seconds."""
    surface3d.draw(figure, picture)
    _settle(figure)
    axes = figure.axes[0]
    start = axes.azim
    for i in range(_TURN):
        axes.view_init(elev=axes.elev, azim=start + 360 * i / _TURN)
        yield _TURN_SECONDS / _TURN


def draw_path(
    figure: Any, picture: Picture, places: NDArray[np.float64], losses: NDArray[np.float64] | None
) -> Iterator[float]:
    """Draw a path over contours, one snapshot after the other, with the loss along it below, if given.

    Parameters
    ----------
    figure : matplotlib Figure
    picture : Picture
        Of a plane.
    places : ndarray of shape (n, 2)
        If they leave the frame of the picture, it is widened; nothing was measured there, so it has no contours.
    losses : ndarray of shape (n,), optional

    Yields
    ------
    float
        Duration of the frame in seconds.
    """
    from matplotlib.patheffects import Normal, Stroke

    picture = replace(picture, frame=_frame(picture, places))
    if picture.frame != replace(picture, frame=None).ends:
        picture = replace(picture, note="; ".join(part for part in (picture.note, "blank: not measured") if part))
    figure.set_size_inches(5, 4.2 if losses is None else 5.2)
    grid = figure.add_gridspec(1 if losses is None else 2, 1, height_ratios=[1] if losses is None else [5, 1])
    axes = figure.add_subplot(grid[0])
    contours.color_bar(axes, contours.paint(axes, picture), picture)
    outlined = [Stroke(linewidth=3.2, foreground="white"), Normal()]
    (line,) = axes.plot([], [], "-", color=_PATH_COLOR, linewidth=1.4, path_effects=outlined, zorder=7)
    (dots,) = axes.plot([], [], "o", color=_PATH_COLOR, markersize=2, zorder=8)
    (head,) = axes.plot(
        [], [], "o", color="#ff7f0e", markersize=7, markeredgecolor="white", markeredgewidth=1.2, zorder=9
    )
    boxed = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.5}
    counter = axes.text(0.025, 0.025, "", transform=axes.transAxes, fontsize=8, color="0.15", bbox=boxed, zorder=10)
    curve = None if losses is None else _strip(figure.add_subplot(grid[1]), losses, picture.log)
    finish(figure, picture)
    _settle(figure)
    count = len(places)
    shown = np.unique(np.linspace(1, count, min(count, _PATH_FRAMES)).round().astype(int))
    for i in shown:
        line.set_data(*places[:i].T)
        dots.set_data(*places[:i].T)
        head.set_data(*places[i - 1 : i].T)
        said = f"snapshot {i:,} of {count:,}"
        if losses is not None and curve is not None:
            curve.set_data(np.arange(1, i + 1), losses[:i])
            said += f", loss {losses[i - 1]:.3g}"
        counter.set_text(said)
        yield _HOLD if i == count else min(0.5, _PATH_SECONDS / len(shown))


def write(picture: Picture, path: Snapshots | None, target: Path, progress: bool | None) -> None:
    """Draw an animation and write it completely or not at all; the file extension sets the format.

    Parameters
    ----------
    picture : Picture
        Of a plane.
    path : (places, losses) or None
        As returned by `path_of`; without a path the surface rotates.
    target : Path
    progress : bool, optional

    Raises
    ------
    StoreError
        If ffmpeg fails.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    suffix = target.suffix.lower()
    figure = Figure(layout="constrained", dpi=_DPI[suffix])
    canvas: Any = FigureCanvasAgg(figure)
    film = turn(figure, picture) if path is None else draw_path(figure, picture, *path)
    total = _TURN if path is None else min(len(path[0]), _PATH_FRAMES)

    def frames() -> Iterator[Frame]:
        with Progress("draw", total, "frames", progress) as bar:
            for seconds in film:
                canvas.draw()
                yield np.array(canvas.buffer_rgba())[..., :3], seconds
                bar.advance()

    if suffix == ".gif":
        write_whole(target, _gif(frames()))
    else:
        with replacing(target) as new:
            _write_mp4(frames(), new)


def require_writer(suffix: str) -> None:
    """Refuse an unsupported format before anything is drawn.

    Raises
    ------
    OptionError
        If the file extension is not supported.
    MissingExtraError
        If an MP4 is requested and ffmpeg is missing.
    """
    if suffix not in ENDINGS:
        raise OptionError(f"The file name of an animation must end in .gif or .mp4, got {suffix or 'no ending'!r}.")
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise MissingExtraError(
            "MP4 needs ffmpeg, which is not on the PATH. Install it (apt-get install ffmpeg, or brew, or conda), "
            "or write a .gif."
        )


# ---------------------------------------------------------------------- inside


def _settle(figure: Any) -> None:
    """Compute the layout once; a new layout for every view would make the picture shake."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _strip(axes: Any, losses: NDArray[np.float64], log: bool) -> Any:
    """Make room for the losses along a path; return the curve, still empty."""
    seen = losses[np.isfinite(losses) & ((losses > 0) | (not log))]
    if log and len(seen):
        axes.set_yscale("log")
    if len(seen):
        room = 0.05 * float(np.ptp(seen)) or 0.5
        axes.set_ylim((seen.min() / 1.2, seen.max() * 1.2) if log else (seen.min() - room, seen.max() + room))
    axes.set_xlim(1, len(losses))
    axes.set_xlabel("snapshot")
    axes.set_ylabel("loss")
    axes.grid(color="0.92", linewidth=0.6)
    (curve,) = axes.plot([], [], color=_PATH_COLOR, linewidth=1.4)
    return curve


def _frame(picture: Picture, places: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Ends of the axes, widened to hold a path with a margin where it leaves them."""
    found = []
    for (low, high), column in zip(picture.ends, places.T, strict=True):
        margin = 0.04 * (max(high, column.max()) - min(low, column.min()))
        left = low if column.min() >= low else column.min() - margin
        right = high if column.max() <= high else column.max() + margin
        found.append((float(left), float(right)))
    return tuple(found)


def _gif(shown: Iterable[Frame]) -> bytes:
    """Write a GIF with one palette for all frames and no dither, so that unchanged pixels cost little."""
    from PIL import Image

    pictures, seconds = zip(*shown, strict=True)
    sample = np.concatenate([pictures[i] for i in np.unique(np.linspace(0, len(pictures) - 1, 5).astype(int))])
    palette = Image.fromarray(sample).quantize(_PALETTE, method=Image.Quantize.FASTOCTREE)
    colors = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    colors[colors.sum(1, dtype=int).argmax()] = 255  # an octree's white is 252
    palette.putpalette(colors.tobytes())
    first, *rest = (Image.fromarray(each).quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures)
    milliseconds = [10 * round(100 * each) for each in seconds]  # a GIF counts hundredths

    def saved(optimize: bool) -> bytes:
        content = io.BytesIO()
        options: dict[str, Any] = {"duration": milliseconds, "loop": 0, "optimize": optimize}
        first.save(content, "GIF", save_all=True, append_images=rest, **options)
        return content.getvalue()

    # what stays made transparent is an eighth of the size where a path grows, and a fifth more where all of it turns
    return min((saved(optimize) for optimize in (False, True)), key=len)


def _write_mp4(shown: Iterable[Frame], target: Path) -> None:
    """Pipe frames into ffmpeg, 30 per second; players need even sizes and 4:2:0 colours."""
    rate, process, said = 30, None, b""
    try:
        clock = 0.0
        for picture, seconds in shown:
            if process is None:
                height, width, _ = picture.shape
                command = [
                    "ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pixel_format", "rgb24",
                    "-video_size", f"{width}x{height}", "-framerate", str(rate), "-i", "-", "-vf",
                    "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(target),
                ]  # fmt: skip
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
            assert process.stdin is not None
            times = round(rate * (clock + seconds)) - round(rate * clock)
            clock += seconds
            for _ in range(times):
                process.stdin.write(picture.tobytes())
    except BrokenPipeError:
        pass  # ffmpeg ended, and says why
    finally:
        if process is not None:
            _, said = process.communicate()
    if process is not None and process.returncode:
        reason = said.decode(errors="replace").strip() or f"it ended with {process.returncode}"
        raise StoreError(f"ffmpeg could not write the film: {reason}. Free disk space, repair ffmpeg, or write a .gif.")
