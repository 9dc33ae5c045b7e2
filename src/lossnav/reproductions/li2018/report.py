"""Report on a reproduction of Li et al. 2018: published and measured numbers, and what was not reproduced."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from lossnav import plots
from lossnav._utils.paths import write_whole
from lossnav.plots.page import Section, write_page
from lossnav.surface.ruggedness import Ruggedness, ruggedness

REPORT, PAGE = "REPORT.md", "index.html"
PICTURES = {"contour": "contour.png", "surface": "surface.png"}  # by kind

Planes = Mapping[str, Sequence[xr.Dataset]]
TableRow = tuple[str, str, str]

# test error of Li et al. 2018, figure 5: with shortcuts, without
PAPER = {20: (0.0737, 0.0818), 56: (0.0589, 0.1331), 110: (0.0579, 0.1644)}
_PAPER_PASSES, _PAPER_IMAGES, _PAPER_SIDE = 300, 50_000, 51

_CHAOTIC = 56  # layers from which the paper finds chaos without shortcuts


class _Measure(NamedTuple):
    """One measure of a plane: its name, how to read it, and its format."""

    name: str
    of: Callable[[Ruggedness], float]
    written: Callable[[float], str]


_MEASURES = (
    _Measure("falls outwards", lambda found: found.descending_fraction, lambda value: f"{value:.1%}"),
    _Measure("is not convex", lambda found: found.nonconvex_fraction, lambda value: f"{value:.1%}"),
    _Measure("number of local minima", lambda found: float(found.local_minima), lambda value: f"{value:.0f}"),
    _Measure("deepest minimum (nat)", lambda found: found.depth, lambda value: f"{value:.3g}"),
    _Measure("median rise (nat)", lambda found: found.rise, lambda value: f"{value:.3g}"),
)


def write_report(folder: Path, record: Mapping[str, Any], surfaces: Planes) -> tuple[Path, Path]:
    """Draw the planes and write the report, in Markdown and as a page.

    Parameters
    ----------
    folder : Path
        Folder of ``REPORT.md``, ``index.html`` and the pictures; earlier ones are replaced.
    record : mapping
        See `Reproduction`.
    surfaces : mapping of str to sequence of xarray.Dataset
        By the name of the network, that with shortcuts first: the drawn plane, then those of other directions, whose
        grid is part of the first one's.

    Returns
    -------
    Path, Path
        Of the report and of the page.
    """
    labels = tuple(planes[0].attrs["objective"]["model"] for planes in surfaces.values())
    planes = {name: many[0] for name, many in surfaces.items()}
    pictures = [
        plots.write(kind, list(planes.values()), folder / name, labels=labels, log=True, overwrite=True)
        for kind, name in PICTURES.items()
    ]
    errors, measured = _errors(record, labels), _measured(surfaces)
    findings, missing = _findings(record, surfaces), _missing(record)
    report = folder / REPORT
    write_whole(report, _markdown(record, labels, pictures, errors, measured, findings, missing))
    sections = [
        Section(
            "The surfaces",
            "The planes of two random directions, filter-normalised, around each network, measured on training images: "
            "one range, one scale, the same colours. The height is the logarithm of the loss.",
            [plots.compare(list(planes.values()), labels=labels, kind="surface", log=True)],
            pictures,
        )
    ]
    sections += [Section("What it says", " ".join(findings), [], [])]
    sections += [Section("What was not reproduced", " ".join(missing), [], [])]
    page = write_page(
        folder / PAGE,
        title=f"Li et al. 2018: {labels[0]} with and without shortcuts",
        lead=_lead(record),
        numbers={row[0]: f"{row[1]}  |  {row[2]}" for row in [("", *labels), *errors, *measured]},
        sections=sections,
        surfaces=planes,
    )
    return report, page


# ---------------------------------------------------------------------- numbers


def _errors(record: Mapping[str, Any], labels: Sequence[str]) -> list[TableRow]:
    """Rows of test errors: published and measured, with the standard error over the images."""
    rows = [
        (f"paper: test error of {depth} layers, {_PAPER_PASSES} passes", f"{with_:.2%}", f"{without:.2%}")
        for depth, (with_, without) in PAPER.items()
    ]
    here = []
    for known in record["networks"].values():
        error, n = known["test_error"], known["test_images"]
        here.append(f"{error:.2%} ± {math.sqrt(error * (1 - error) / n):.2%}")
    words = f"here: test error of {record['asked']['depth']} layers, {record['passes']:,} passes"
    return [*rows, (words, here[0], here[1])]


def _measured(surfaces: Planes) -> list[TableRow]:
    """Rows of the measures of the planes."""
    first = [planes[0] for planes in surfaces.values()]
    fine = [ruggedness(plane) for plane in first]
    side = first[0]["loss"].shape[0]
    centers, found = [plane.lossnav.center for plane in first], [plane.lossnav.summary() for plane in first]
    rows = [
        _row("loss at the centre (training images)", [f"{c['loss']:.4g} ± {c['loss_se']:.2g} nat" for c in centers]),
        _row("accuracy there", [f"{c['accuracy']:.1%}" for c in centers]),
        _row("lowest loss on the plane", [_place(each, "lowest") for each in found]),
        _row("highest loss on the plane", [_place(each, "highest") for each in found]),
        _row("standard error of the loss, median", [f"{float(plane['loss_se'].median()):.2g} nat" for plane in first]),
        _row(f"falls outwards, of {side}x{side} points", [f"{r.descending_fraction:.1%}" for r in fine]),
        _row("  surely, for other images too", [f"{r.descending_fraction_certain:.1%}" for r in fine]),
        _row("is not convex along rows and columns", [f"{r.nonconvex_fraction:.1%}" for r in fine]),
        _row("  surely", [f"{r.nonconvex_fraction_certain:.1%}" for r in fine]),
        _row("local minima (off the border)", [str(r.local_minima) for r in fine]),
        _row("  surely", [str(r.local_minima_certain) for r in fine]),
        _row("deepest minimum", [f"{r.depth:.3g} ± {r.depth_se:.2g} nat" if r.local_minima else "none" for r in fine]),
        _row("median rise above the lowest", [f"{r.rise:.3g} nat" for r in fine]),
        _row("points left out: not finite, or failed", [str(each["points"] - each["status"]["ok"]) for each in found]),
    ]
    coarse = _on_one_grid(surfaces)
    n = len(next(iter(coarse.values())))
    for measure in _MEASURES:
        written = [", ".join(measure.written(measure.of(r)) for r in each) for each in coarse.values()]
        rows.append(_row(f"{measure.name}, {n} planes on the same coarse grid", written))
    return rows


def _row(name: str, values: Sequence[str]) -> TableRow:
    with_, without = values
    return name, with_, without


def _place(found: Mapping[str, Any], word: str) -> str:
    if word not in found:
        return "not finite"
    at = ", ".join(f"{x:g}" for x in found[word]["at"].values())
    return f"{found[word]['loss']:.4g} nat at ({at})"


def _on_one_grid(surfaces: Planes) -> dict[str, list[Ruggedness]]:
    """The ruggedness of every plane on the grid of the coarsest, which is part of the others."""
    found = {}
    for name, planes in surfaces.items():
        least = min(plane["loss"].shape[0] for plane in planes)
        steps = [(plane["loss"].shape[0] - 1) // (least - 1) for plane in planes]
        found[name] = [ruggedness(plane, step) for plane, step in zip(planes, steps, strict=True)]
    return found


# ---------------------------------------------------------------------- words


def _lead(record: Mapping[str, Any]) -> str:
    asked, machine = record["asked"], record["machine"]
    steps = {known["lr"] for known in record["networks"].values()}
    alone = "alone" if len(steps) == 1 else f"and in the learning rate of their training ({', '.join(map(str, steps))})"
    return (
        f"Two ResNets of {asked['depth']} layers for CIFAR-10 that differ in their shortcuts {alone}, trained for "
        f"{record['passes']:,} passes over {record['samples']:,} images from the same initial weights, and the planes "
        f"around them, with directions drawn alike. {record['seconds'] / 60:.1f} minutes on {machine['device']} "
        f"({machine['threads']} threads), lossnav {machine['lossnav']}, torch {machine['torch']}, seed {asked['seed']}."
    )


def _findings(record: Mapping[str, Any], surfaces: Planes) -> list[str]:
    """Findings, with their certainty."""
    said = [f"{_expected(record['asked']['depth'])} It gives no number for chaos; those here are ours."]
    with_, without = _on_one_grid(surfaces).values()
    n = len(with_)
    said += [_compared(m, [m.of(found) for found in with_], [m.of(found) for found in without]) for m in _MEASURES]
    if n > 1:
        chance = 2 / math.comb(2 * n, n)
        said.append(
            f"That all {n} planes of one network lie beyond all {n} of the other happens by chance in {chance:.0%} of "
            f"cases for one such measure, and there are {len(_MEASURES)}."
        )
    said += [_bottom(planes[0]) for planes in surfaces.values()]
    errors = [(k["test_error"], k["test_images"]) for k in record["networks"].values()]
    difference = errors[1][0] - errors[0][0]
    spread = math.sqrt(sum(error * (1 - error) / images for error, images in errors))
    said.append(
        f"The test error without shortcuts is {100 * abs(difference):.2f} ± {100 * spread:.2f} percentage points "
        f"{'higher' if difference > 0 else 'lower'} (standard error over the test images)."
    )
    said.append(
        "Each network was trained once: how much all this changes with another seed of the training was not measured, "
        "so that a difference may be one between two trainings as well as one between two architectures."
    )
    return said


def _expected(depth: int) -> str:
    """Expectation from the paper for networks of this depth."""
    if depth >= _CHAOTIC:
        return (
            "The paper finds the surface of networks so deep chaotic without shortcuts: in large regions the gradient "
            "does not point towards the minimizer at the centre. With shortcuts it finds nothing of that."
        )
    found = "The paper finds that shortcuts hardly change the surface of a network of 20 layers"
    if depth <= min(PAPER):
        return f"{found}: no chaos is to be expected here, and little difference."
    return f"{found}, and that without them it is chaotic at {_CHAOTIC}; of {depth} layers it shows nothing."


def _bottom(plane: xr.Dataset) -> str:
    """Whether a network is at the lowest point of its plane; if not, its training did not end at a minimum."""
    label, center = plane.attrs["objective"]["model"], plane.lossnav.center["loss"]
    lowest = plane.lossnav.summary()["lowest"]
    if lowest["loss"] >= center or not any(lowest["at"].values()):
        return f"{label} is the lowest point of its plane's grid."
    at = ", ".join(f"{x:g}" for x in lowest["at"].values())
    return (
        f"{label} is not the lowest point of its plane: at ({at}) the loss is {center - lowest['loss']:.3g} nat lower. "
        "Its training has not ended at a minimum of this plane, and part of what falls outwards says just that."
    )


def _compared(measure: _Measure, with_: Sequence[float], without: Sequence[float]) -> str:
    """Whether the planes of the two networks are separated in a measure."""
    ranges = [_range(measure, values) for values in (with_, without)]
    numbers = f"{ranges[0]} with shortcuts, {ranges[1]} without"
    values = [*with_, *without]
    if not all(math.isfinite(value) for value in values):
        return f"“{measure.name}” could not be measured on every plane: {numbers}."
    if len(with_) == 1:
        return f"“{measure.name}”: {numbers}, on one plane each."
    if max(with_) < min(without):
        return f"“{measure.name}” is larger without shortcuts on all planes: {numbers}."
    if min(with_) > max(without):
        return f"“{measure.name}” is smaller without shortcuts on all planes: {numbers}."
    return f"“{measure.name}” does not tell the networks apart: {numbers}."


def _range(measure: _Measure, values: Sequence[float]) -> str:
    if len(values) == 1 or min(values) == max(values):
        return measure.written(values[0])
    return f"{measure.written(min(values))} to {measure.written(max(values))} (median {_median(measure, values)})"


def _median(measure: _Measure, values: Sequence[float]) -> str:
    return measure.written(statistics.median(values))


def _missing(record: Mapping[str, Any]) -> list[str]:
    """Parts of the paper that were not reproduced, or done differently."""
    depth = record["asked"]["depth"]
    said = []
    if record["passes"] != _PAPER_PASSES or record["samples"] != _PAPER_IMAGES:
        said.append(
            f"Length of training: {record['passes']:,} passes over {record['samples']:,} images; the paper has "
            f"{_PAPER_PASSES} over {_PAPER_IMAGES:,}. The learning rate drops at the same parts of the training."
        )
    if depth < _CHAOTIC:
        said.append(f"Depth: {depth} layers. Networks of 56 and 110 layers, the paper's point, were not trained.")
    else:
        said.append("Other depths than this one.")
    if depth >= _CHAOTIC:
        said.append(
            "Learning rate without shortcuts: 0.01, as the text of section 6 says; the authors' script for the figure "
            "of 56 layers names a checkpoint that began with 0.1."
        )
    said.append(
        "Shortcuts: where the shape changes ours are option A of He et al. (no parameters), those of the authors' code "
        "1x1 convolutions with BatchNorm."
    )
    if record["lossy"]:
        said.append(
            "Images: these were stored as JPEG, which changes them; test errors are not those of the original images."
        )
    said.append("Input scaling: ImageNet's means and standard deviations; the authors' code has CIFAR-10's.")
    if record["images"] < _PAPER_IMAGES or record["side"] != _PAPER_SIDE:
        said.append(
            f"Planes: {record['side']}x{record['side']} points on {record['images']:,} training images; the paper has "
            f"{_PAPER_SIDE}x{_PAPER_SIDE} on {_PAPER_IMAGES:,}."
        )
    said.append(
        "Seeds: the paper's are not known. Directions here are also exactly orthogonal, those of the paper nearly."
    )
    said.append(
        "Of the paper's other results nothing: wide networks, DenseNet, VGG-9 and batch sizes (figures 2, 3, 6), "
        "eigenvalues of the Hessian (figure 7), paths of the training (figures 8, 9)."
    )
    return said


def _markdown(
    record: Mapping[str, Any],
    labels: Sequence[str],
    pictures: Sequence[Path],
    errors: Sequence[TableRow],
    measured: Sequence[TableRow],
    findings: Sequence[str],
    missing: Sequence[str],
) -> str:
    blocks = [
        f"# Li et al. 2018: {labels[0]} with and without shortcuts",
        _lead(record),
        "H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, *Visualizing the Loss Landscape of Neural Nets*, NeurIPS "
        "2018, [arXiv:1712.09913](https://arxiv.org/abs/1712.09913).",
        "## Test error",
        _table(("", "with shortcuts", "without"), errors),
        "## The surfaces",
        "Cross-entropy on training images over the plane of two random directions, filter-normalised, from -1 to 1. "
        "Both networks on one scale; heights and levels are logarithmic.",
        *(f"![{' and '.join(labels)}]({picture.name})" for picture in pictures),
        "## Measured on the planes",
        _table(("", *labels), measured),
        "“Falls outwards”: part of the inner points at which the loss falls on the straight way from the centre. “Not "
        "convex”: part of the triples of neighbours whose middle lies above the chord. A minimum is as deep as the loss"
        " has to rise before it falls lower. “Surely”: by more than two standard errors over the images, as if the "
        "errors of neighbouring points were independent, which they are not: it is the least there is.",
        "## What it says",
        _list(findings),
        "## What was not reproduced",
        _list(missing),
    ]
    return "\n\n".join(blocks) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
