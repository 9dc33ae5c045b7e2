"""`ln.tree`: how several minima hang together, by the passes on paths between each two of them."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossnav._utils.conclusion import conclude
from lossnav._utils.lazy_import import lazily
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav._utils.validation import described
from lossnav.charts import Line
from lossnav.directions import between
from lossnav.errors import Interrupted, OptionError, OutputExistsError, StoreError
from lossnav.evaluation.evaluate import evaluate
from lossnav.objective.networks import End, Network, together
from lossnav.objective.objective import Objective
from lossnav.params import Checkpoint
from lossnav.samplers import Grid
from lossnav.surface.barrier import barrier
from lossnav.surface.minima_tree import MATRICES, MinimaTree
from lossnav.symmetry import align as align_two
from lossnav.symmetry import symmetries
from lossnav.symmetry.finding import Symmetries

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

FILE = "tree.json"


def tree(
    minima: Sequence[End],
    *,
    names: Sequence[str] | None = None,
    align: bool = True,
    restarts: int = 10,
    points: int = 21,
    level: float = 0.95,
    seed: int = 0,
    store: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> MinimaTree:
    """Measure the passes between each two of several minima, and arrange the minima in a tree.

    For each two, the second is permuted towards the first (`ln.align`) and the loss is evaluated along the straight
    line between them, with the same samples at all points. The highest loss on that line is an **upper bound** on the
    lowest pass there is. The minimum spanning tree over these passes is a disconnectivity graph (`ln.plot.tree`). Two
    minima are in one basin unless the barrier between them is shown to be above 0, directly or by way of others.

    Parameters
    ----------
    minima : sequence of Objective, nn.Module, path or dict of str to Tensor
        At least two networks of one architecture. The first is an objective, whose loss and data all are measured with.
    names : sequence of str, optional
        One for each; by default names of files, else their numbers.
    align : bool
        Whether to permute the second of each two. Without it, copies in another order of units are other minima.
    restarts : int
        Starts of each alignment.
    points : int
        On each line, both ends included; at least 3. A pass that lies between two points is seen less high.
    level : float
        Probability, above 0.5, with which no basins are told apart that are one. Two are told apart only if every
        barrier between them is shown to be above 0, so pairs need no correction (Berger 1982, intersection-union
        tests); the n - 1 places at which branches meet share the error (Bonferroni), and intervals are one-sided and
        simultaneous over the points of a line.
    seed : int
        Of alignments.
    store : path, optional
        A folder, in which each line has a store of its own and the tree is ``tree.json``. The same call resumes after a
        stop or a kill, and returns at once when it is complete.
    overwrite : bool
        Whether to replace lines of another run in that folder.
    progress : bool or None
        Whether to show a progress bar of the pairs (None: on a terminal).

    Returns
    -------
    MinimaTree
        Losses, passes and barriers with their errors; printed, a table.

    Raises
    ------
    OptionError
        If there are not two minima, the first is no objective, or an option is wrong.
    StructureMismatchError, CheckpointMismatchError
        If names or shapes of the networks differ; the second for a file.
    ObjectiveError
        If weights are not finite.
    PlanMismatchError
        If the folder has a line of another run.
    Interrupted
        After Ctrl-C or SIGTERM, with the tree of the pairs so far in ``.partial``; other passes are NaN.

    References
    ----------
    Becker & Karplus 1997 (disconnectivity graphs); Draxler et al. 2018, section 3.3 (minimum spanning tree over
    passes); Ainsworth et al. 2023 (alignment).

    Examples
    --------
    >>> import lossnav as ln
    >>> x = torch.linspace(-1, 1, 40).reshape(-1, 1)
    >>> objective = ln.Objective(torch.nn.Linear(1, 1), "mse", (x, 2 * x))
    >>> other = {"weight": torch.tensor([[3.0]]), "bias": torch.tensor([0.0])}
    >>> found = tree([objective, other], names=["a", "b"], points=5, progress=False)
    >>> len(found.names), len(found.merges)
    (2, 1)
    """
    objective, networks = _networks(minima)
    labels = _names(minima, names)
    if isinstance(points, bool) or not isinstance(points, int) or points < 3:
        raise OptionError(f"points is {described(points)}. Pass a whole number from 3 upwards: both ends and between.")
    if not 0.5 < level < 1:
        raise OptionError(f"level is {level!r}. Pass a probability between 0.5 and 1, such as 0.95.")
    folder = _folder(store)
    ends = [Checkpoint(dict(network.params), dict(network.buffers)) for network in networks]
    others = zip(ends[1:], networks[1:], strict=True)
    at = [objective, *(objective.at(dict(end) | end.buffers | network.held) for end, network in others)]
    found = symmetries(objective, seed=seed) if align else None
    values = [one.evaluate(one.params) for one in at]
    loss = np.array([float(one["loss"]) for one in values])
    error = np.array([float(one.get("loss_se", math.nan)) for one in values])
    made = _PairwiseLines(objective, at, ends, found, restarts, points, seed, folder, overwrite)
    count = len(ends)
    pairs = list(itertools.combinations(range(count), 2))
    columns: dict[str, Any] = {name: np.full((count, count), math.nan) for name in MATRICES}
    each = 1 - 2 * (1 - level) / (count - 1)  # of an interval with two sides, of which one is looked at
    done, signal = 0, None
    with Progress("tree", len(pairs), "pairs", progress) as bar, StopRequests() as stop:
        for i, j in pairs:
            if stop.signal is not None:
                break
            try:
                numbers = made.between(i, j, each)
            except Interrupted as stopped:
                signal = stopped.signal
                break
            if numbers is None:  # one network, and no line: its loss is that of either, up to rounding
                numbers = dict.fromkeys(MATRICES, 0.0) | {"pass_loss": loss[i], "pass_error": error[i]}
            for name, value in numbers.items():
                columns[name][i, j] = columns[name][j, i] = value
            columns["where"][j, i] = 1 - columns["where"][i, j]
            done += 1
            bar.advance()
    np.fill_diagonal(columns["pass_loss"], loss)
    np.fill_diagonal(columns["pass_error"], error)
    for name in ("barrier", "barrier_error", "barrier_low", "where"):
        np.fill_diagonal(columns[name], 0.0)
    result = MinimaTree(labels, loss, error, **columns, level=level, aligned=align, path="line", seed=seed)
    signal = stop.signal if signal is None else signal
    if folder is not None and signal is None:
        result.save(folder / FILE)
    kept = "The tree of these is in the .partial of this exception."
    if folder is not None:
        kept = f"{kept} The lines are in {folder}: the same call continues."
    return conclude(result, signal, f"{done} of {len(pairs)} pairs", kept=kept)


def _networks(minima: Sequence[End]) -> tuple[Objective, list[Network]]:
    if not isinstance(minima, list | tuple) or len(minima) < 2:
        raise OptionError(
            f"A tree is of at least two minima, got {described(minima)}. Pass a list: ln.tree([objective, 'b.pt'])."
        )
    first = minima[0]
    if not isinstance(first, Objective):
        raise OptionError(
            f"The first minimum is {described(first)}, which has no loss and no data. Pass an objective first; the "
            "others may be modules, files and state dicts."
        )
    return first, together(*minima)


def _names(minima: Sequence[End], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        own = [Path(m).stem if isinstance(m, str | os.PathLike) else str(k) for k, m in enumerate(minima)]
        return tuple(own if len(set(own)) == len(own) else map(str, range(len(minima))))
    made = tuple(map(str, names))
    if isinstance(names, str) or len(made) != len(minima) or len(set(made)) < len(made):
        raise OptionError(f"names is {names!r}. Pass {len(minima)} different names, one for each minimum.")
    return made


def _folder(store: str | os.PathLike[str] | None) -> Path | None:
    if store is None:
        return None
    folder = Path(store)
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file. Choose a folder for the lines of the tree.")
    if (folder / "zarr.json").exists():
        raise OutputExistsError(f"{folder} is a surface. Choose another folder for the lines of the tree.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made ({error.strerror}). Choose another folder.") from error
    return folder


class _PairwiseLines:
    """The highest loss between two minima, with its errors."""

    def __init__(
        self,
        objective: Objective,
        at: Sequence[Objective],
        ends: Sequence[Checkpoint],
        found: Symmetries | None,
        restarts: int,
        points: int,
        seed: int,
        folder: Path | None,
        overwrite: bool,
    ) -> None:
        self._objective, self._at, self._ends, self._found = objective, at, ends, found
        self._restarts, self._points, self._seed = restarts, points, seed
        self._folder, self._overwrite = folder, overwrite

    def between(self, i: int, j: int, level: float) -> dict[str, float] | None:
        """Measure the line between two minima; None where they are one network."""
        start, end = self._ends[i], self._ends[j]
        if self._found is not None:
            aligned = align_two(
                self._at[i], end, symmetries=self._found, restarts=self._restarts, seed=self._seed, progress=False
            )
            start, end = aligned.points
        if _equal(start, end):
            return None
        return _numbers(self._line(i, j, start, end), level)

    def _line(self, i: int, j: int, start: Checkpoint, end: Checkpoint) -> xr.Dataset:
        return evaluate(
            self._objective,
            Line(start, between(start, end)),
            Grid(alpha=(0, 1, self._points)),
            keep_samples=True,
            store=None if self._folder is None else self._folder / f"pair-{i:03d}-{j:03d}.zarr",
            overwrite=self._overwrite,
            progress=False,
        )


def _equal(a: Checkpoint, b: Checkpoint) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items()) and all(
        torch.equal(tensor, b.buffers[name]) for name, tensor in a.buffers.items()
    )


def _numbers(surface: xr.Dataset, level: float) -> dict[str, float]:
    """Of a line: its highest loss, and the barrier above its larger end, simultaneous over its points."""
    loss, coordinates = surface["loss"].values, surface["alpha"].values
    if not np.isfinite(loss).all():
        unknown = dict.fromkeys(("pass_error", "barrier_error", "barrier_low"), math.nan)
        where = float(coordinates[int(np.flatnonzero(~np.isfinite(loss))[0])])
        return {"pass_loss": math.inf, "barrier": math.inf, "where": where, **unknown}
    top, found = int(np.argmax(loss)), barrier(surface, level=level)
    return {
        "pass_loss": float(loss[top]),
        "pass_error": float(surface["loss_se"].values[top]) if "loss_se" in surface else math.nan,
        "barrier": found.above_end.value,
        "barrier_error": found.above_end.error,
        "barrier_low": found.above_end.low,
        "where": found.highest,
    }
