"""How several minima hang together: the lowest known passes between them, as a tree. No torch.

The pass between two minima is the highest loss on a path between them. That of a path which somebody chose, a straight
line after alignment or a curve that was trained, is an upper bound on the lowest pass there is: every height in this
tree is one. Minima that are connected below a height form a branch of a disconnectivity graph (Becker & Karplus 1997);
its branches are those of the minimum spanning tree over the passes.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.jsonable import jsonable
from lossnav._utils.paths import write_whole
from lossnav.errors import OptionError, StoreError

Array = NDArray[np.float64]
MATRICES = ("pass_loss", "pass_error", "barrier", "barrier_error", "barrier_low", "where")
_VECTORS = ("loss", "loss_error")
FORMAT = "lossnav tree 1"


@dataclass(frozen=True)
class Merge:
    """Two branches that meet.

    Attributes
    ----------
    height : float
        The loss at the pass, an upper bound on the lowest one.
    error : float
        Its standard error over samples; NaN if unknown.
    edge : tuple of int
        The two minima between which the pass was measured.
    parts : tuple
        The two branches: a minimum's index, or another `Merge`.
    """

    height: float
    error: float
    edge: tuple[int, int]
    parts: tuple[int | Merge, int | Merge]

    @property
    def minima(self) -> tuple[int, ...]:
        """The minima below, from left to right."""
        return tuple(itertools.chain.from_iterable((p,) if isinstance(p, int) else p.minima for p in self.parts))


@dataclass(frozen=True, eq=False)
class MinimaTree:
    """Minima, the passes between them, and which of them are one basin. Printed, it is a table.

    Attributes
    ----------
    names : tuple of str
        Of the n minima.
    loss, loss_error : array, shape (n,)
        At each minimum, with its standard error over samples.
    pass_loss, pass_error : array, shape (n, n)
        Highest loss on the path between two minima, an upper bound on the lowest pass; and its standard error.
    barrier, barrier_error : array, shape (n, n)
        The pass minus the larger of the two ends, and its paired standard error; NaN if unknown.
    barrier_low : array, shape (n, n)
        Lower end of the interval of the barrier, simultaneous over the path; NaN if unknown.
    where : array, shape (n, n)
        Where on the path the pass is: 0 at the first of the two, 1 at the second.
    level : float
        Probability with which no basins are told apart that are one.
    aligned : bool
        Whether the second of each two was permuted towards the first.
    path : str
        What paths are: "line".
    seed : int
    """

    names: tuple[str, ...]
    loss: Array
    loss_error: Array
    pass_loss: Array
    pass_error: Array
    barrier: Array
    barrier_error: Array
    barrier_low: Array
    where: Array
    level: float
    aligned: bool
    path: str
    seed: int

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The minimum spanning tree over the passes, the lowest first (Kruskal 1956)."""
        return tuple(merge.edge for merge in self.merges)

    @cached_property
    def merges(self) -> tuple[Merge, ...]:
        """The n - 1 places at which branches meet, from the lowest up."""
        count = len(self.names)
        branch: dict[int, int | Merge] = {i: i for i in range(count)}
        of = list(range(count))
        made = []
        heights = np.where(np.isfinite(self.pass_loss), self.pass_loss, np.inf)
        for i, j in sorted(itertools.combinations(range(count), 2), key=lambda pair: (heights[pair], pair)):
            a, b = of[i], of[j]
            if a == b:
                continue
            parts = (branch[a], branch[b])
            merge = Merge(float(self.pass_loss[i, j]), float(self.pass_error[i, j]), (i, j), parts)
            branch[a] = merge
            of = [a if root == b else root for root in of]
            made.append(merge)
        return tuple(made)

    @cached_property
    def leaves(self) -> tuple[tuple[int, ...], ...]:
        """Minima by basin: together are those between which no barrier was shown, directly or by way of others.

        A barrier is shown where the lower end of its interval is above 0. Without an error, a barrier above 0 counts.
        """
        shown = np.where(np.isnan(self.barrier_low), self.barrier > 0, self.barrier_low > 0)
        shown |= ~np.isfinite(self.pass_loss)
        of = list(range(len(self.names)))
        for i, j in itertools.combinations(range(len(of)), 2):
            if not shown[i, j] and of[i] != of[j]:
                low, high = sorted((of[i], of[j]))
                of = [low if root == high else root for root in of]
        return tuple(tuple(i for i, root in enumerate(of) if root == leaf) for leaf in sorted(set(of)))

    def lowest_pass(self, i: int, j: int) -> float:
        """The least height below which two minima are connected, by way of others if that is lower (an upper bound)."""
        if i == j:
            return float(self.loss[i])
        return next(merge.height for merge in self.merges if i in merge.minima and j in merge.minima)

    def __str__(self) -> str:
        width = max(map(len, self.names))
        how = "each two aligned" if self.aligned else "not aligned"
        lines = [
            f"{len(self.names)} minima, {len(self.leaves)} {'basin' if len(self.leaves) == 1 else 'basins'} "
            f"at {self.level:.0%}; paths: {self.path}, {how}; every pass is an upper bound",
            "",
            f"{'minimum':<{width}}  basin  loss",
        ]
        basin = {i: k for k, leaf in enumerate(self.leaves) for i in leaf}
        for i, name in enumerate(self.names):
            lines.append(f"{name:<{width}}  {basin[i] + 1:<5}  {_with_error(self.loss[i], self.loss_error[i])}")
        lines += ["", f"{'pass between':<{2 * width + 3}}  loss at most  barrier above the larger end"]
        for merge in self.merges:
            i, j = merge.edge
            said = _with_error(self.barrier[i, j], self.barrier_error[i, j])
            pair = f"{self.names[i]} - {self.names[j]}"
            lines.append(f"{pair:<{2 * width + 3}}  {f'<= {merge.height:.4g}':<12}  {said}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON holds them, and `edges` and `leaves`; numbers that JSON lacks are words."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return cast(dict[str, Any], jsonable({**held, "edges": self.edges, "leaves": self.leaves}))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all.

        Raises
        ------
        StoreError
            If the file cannot be written.
        """
        write_whole(path, json.dumps({"format": FORMAT, **self.to_dict()}, indent=1))


def open_tree(path: str | os.PathLike[str]) -> MinimaTree:
    """Open a tree that was saved as JSON.

    Parameters
    ----------
    path : path
        Of `MinimaTree.save` or ``lossnav tree``.

    Returns
    -------
    MinimaTree

    Raises
    ------
    StoreError
        If the file cannot be read or is not a whole tree.

    Examples
    --------
    >>> import tempfile
    >>> one = np.zeros((2, 2))
    >>> tree = MinimaTree(("a", "b"), one[0], one[0], one, one, one, one, one, one, 0.95, True, "line", 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree.save(f"{folder}/tree.json")
    ...     open_tree(f"{folder}/tree.json").leaves
    ((0, 1),)
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as a tree ({error}). Make it again with lossnav tree.") from error
    try:
        return _tree_of(held)
    except (KeyError, TypeError, ValueError, OptionError) as error:
        raise StoreError(f"{path} is not a whole tree ({error}). Make it again with lossnav tree.") from error


def _tree_of(held: Any) -> MinimaTree:
    if not isinstance(held, Mapping) or held.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    names = tuple(held["names"])
    if len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise ValueError("its names are not at least two texts")
    arrays = {name: _array(name, held[name], (len(names), len(names))) for name in MATRICES}
    arrays |= {name: _array(name, held[name], (len(names),)) for name in _VECTORS}
    if not isinstance(held["aligned"], bool) or not isinstance(held["path"], str) or not isinstance(held["seed"], int):
        raise ValueError("how it was made is not recorded")
    return MinimaTree(
        names=names,
        level=float(held["level"]),
        aligned=held["aligned"],
        path=held["path"],
        seed=held["seed"],
        **cast(dict[str, Any], arrays),
    )


def _array(name: str, values: Sequence[Any], shape: tuple[int, ...]) -> Array:
    made = np.array(values, dtype=np.float64)  # "nan" and "inf" as JSON holds them are read by float too
    if made.shape != shape:
        raise ValueError(f"{name} has shape {made.shape} and not {shape}")
    return made


def _with_error(value: float, error: float) -> str:
    return f"{value:.4g} (error unknown)" if math.isnan(error) else f"{value:.4g} ± {error:.2g}"
