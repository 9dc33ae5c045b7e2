"""Directions through weight space, as values with their recipe beside them.

A direction is a ``dict[str, Tensor]`` with the names and shapes of the objective's parameters (zeros where it does
not lead) that also carries ``recipe``: what it is, its seed, its norm, and the norm of each tensor.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossnav import components, curvature
from lossnav import lazy as lazily
from lossnav import params as algebra
from lossnav.draws import Draws, way_out
from lossnav.errors import DirectionError, Interrupted, LossnavWarning, OptionError, StructureMismatchError
from lossnav.lazy import Family, LazyDirection
from lossnav.moving import select_moving
from lossnav.networks import End, Network, coincidence, moved, named, together
from lossnav.nouns import described, require
from lossnav.objective import Objective
from lossnav.params import Params
from lossnav.progress import Progress
from lossnav.roles import excluded

if TYPE_CHECKING:
    from lossnav.trajectory import Part, Trajectory

Normalization = Literal["filter", "layer", "weight"] | None
Distribution = Literal["normal", "uniform"]

NORMALIZATIONS = ("filter", "layer", "weight", None)

_TOGETHER = 128  # directions that are made at once: what they are made of is drawn again for the next so many


class Direction(dict[str, Tensor]):
    """A Params-shaped vector that remembers how it was made.

    Attributes
    ----------
    recipe : dict
        Values that JSON can hold: ``kind``, ``seed``, ``normalize``, ``norm`` (float64, over all tensors), ``norms``
        (Frobenius norm of each tensor that moves), and what else the maker knows.
    points : tuple of Network
        The checkpoints it leads from and to, where it leads to some: charts take their buffers from there. ``-d``,
        ``2 * d`` and ``d / 2`` lead to them as well; a dict made of its tensors (``{name: 2 * d[name] ...}``) does not,
        and on its chart the buffers of the centre hold everywhere.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], recipe: Mapping[str, Any], points: tuple[Network, ...] = ()
    ) -> None:
        super().__init__(tensors)
        self.points = points
        norms = {name: length for name, length in algebra.norms(self).items() if length}
        self.recipe: dict[str, Any] = {**recipe, "norm": algebra.norm(self), "norms": norms}

    def copy(self) -> Direction:
        """Return the same direction, its tensors shared."""
        return Direction(self, self.recipe, self.points)

    def __mul__(self, factor: Any) -> Direction:
        """Return the direction that many times as long.

        One between checkpoints leads to them still: at 1 / factor. Any other is a direction that was given.
        """
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        tensors = {name: tensor * float(factor) for name, tensor in self.items()}
        if not self.points:
            return Direction(tensors, {"kind": "given"})
        return Direction(tensors, self.recipe | {"times": float(factor) * self.recipe.get("times", 1.0)}, self.points)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Direction:
        factor: float = 1.0 / divisor
        return self * factor

    def __neg__(self) -> Direction:
        return self * -1.0

    def __add__(self, other: Any) -> Direction:
        """Return the sum of two directions that lead to no checkpoint.

        Raises
        ------
        DirectionError
            If one leads to a checkpoint: the sum leads to another network, of which the buffers are not known.
        StructureMismatchError
            If names or shapes differ.
        """
        if not isinstance(other, Mapping):
            return NotImplemented
        if self.points or getattr(other, "points", ()):
            raise DirectionError(
                "A sum of directions between checkpoints leads to none of them, so which buffers belong there is not "
                "known. Put the checkpoints on one chart, whose points are the sums: "
                "ln.Plane(a, *ln.directions.through(a, b, c)). Or take the weights alone, {name: d1[name] + d2[name] "
                "for name in d1}, with the buffers of the centre."
            )
        _require_same(other, self)
        return Direction({name: tensor + other[name] for name, tensor in self.items()}, {"kind": "given"})

    def __sub__(self, other: Any) -> Direction:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self + (-other if isinstance(other, Direction) else {name: -tensor for name, tensor in other.items()})

    def __repr__(self) -> str:
        said = ", ".join(f"{key}={self.recipe[key]!r}" for key in ("kind", "normalize", "seed") if key in self.recipe)
        return f"Direction({said}, norm={self.recipe['norm']:.4g})"


@overload
def random(
    objective: Objective,
    n: int = 1,
    *,
    normalize: Normalization = ...,
    distribution: Distribution = ...,
    orthogonal: bool = ...,
    exclude: Sequence[str] = ...,
    seed: int = ...,
    lazy: Literal[False] = ...,
    progress: bool | None = ...,
) -> tuple[Direction, ...]: ...


@overload
def random(
    objective: Objective,
    n: int = 1,
    *,
    normalize: Normalization = ...,
    distribution: Distribution = ...,
    orthogonal: bool = ...,
    exclude: Sequence[str] = ...,
    seed: int = ...,
    lazy: bool,
    progress: bool | None = ...,
) -> tuple[Direction | LazyDirection, ...]: ...


def random(
    objective: Objective,
    n: int = 1,
    *,
    normalize: Normalization = "filter",
    distribution: Distribution = "normal",
    orthogonal: bool = True,
    exclude: Sequence[str] = ("bias", "norm"),
    seed: int = 0,
    lazy: bool = False,
    progress: bool | None = None,
) -> tuple[Direction | LazyDirection, ...]:
    """Draw random directions.

    Each tensor is drawn on its own, on the CPU in float32, from counter-based generators keyed by the seed, the
    number of the direction, the name of the tensor and the number of the slice (rows of at most 2^20 entries
    together): what is drawn for one does not depend on the others, on the device, on what is excluded or on threads.

    With ``normalize="filter"`` the directions are made orthogonal *within each filter* before the filter is scaled.
    Then every filter has the norm of the weight's filter **and** the directions are orthogonal. Orthogonalising as a
    whole and scaling afterwards loses one of the two. A filter of m entries has no more than m orthogonal
    directions: it is left out (zero) from the (m+1)-th on, which the recipe counts in ``filters_left_out``.

    Parameters
    ----------
    objective : Objective
        Whose parameters move.
    n : int
        How many directions.
    normalize : "filter", "layer", "weight" or None
        ``filter``: d_ij <- d_ij * ||theta_ij|| / ||d_ij|| for filter j of layer i (Li et al. 2018, section 4).
        ``layer``: the same per tensor. ``weight``: every entry times the absolute value of its weight.
        None: as drawn.
    distribution : "normal" or "uniform"
        Standard normal, or uniform on [0, 1) as in the seed notebook (not of zero mean).
    orthogonal : bool
        Whether d_i . d_j = 0 is made exact.
    exclude : sequence of str
        ``"bias"`` and ``"norm"`` (parameters of normalisation layers) leave out what has that role; anything else
        is a glob pattern over names. What is left out stays at the centre. Default as in Li et al. 2018.
    seed : int
        Recorded in the recipe.
    lazy : bool
        Whether tensors are drawn anew where they are needed instead of stored: for models too large to be held beside
        their directions (with ``Objective(copy=False)``). The bits are the same. A Line, Plane or Volume of them
        holds no more than the point it makes; to draw takes seven seconds a billion parameters, direction and point
        on two cores.
    progress : bool or None
        See `Progress`.

    Returns
    -------
    tuple of n Direction, or LazyDirection
        float32 where the parameters are of lower precision, so that small steps do not vanish, else their dtype.

    Raises
    ------
    OptionError
        If an option is unknown, or nothing is left to move.
    DirectionError
        If there is no room for n orthogonal directions.
    Interrupted
        After Ctrl-C, with the first of them that are whole in ``.directions``: those of the same call with that n.

    References
    ----------
    Li, Xu, Taylor, Studer, Goldstein 2018, "Visualizing the Loss Landscape of Neural Nets", section 4.
    Departures: they set excluded layers to zero only when asked, and do not orthogonalise.
    """
    require(objective, "objective")
    _require_normalization(normalize)
    _require_number(n)
    if distribution not in ("normal", "uniform"):
        raise OptionError(f"distribution={distribution!r} is unknown. Use 'normal' or 'uniform'.")
    if not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed={seed!r} cannot be used. Pass a whole number from 0 upwards.")
    exclude = algebra.listed(() if exclude is None else exclude)
    still = objective.excluded(exclude)
    names = [name for name in objective.params if name not in still]
    if not names:
        raise OptionError(f"exclude={tuple(exclude)!r} leaves no parameter to move. Exclude less, with exclude=().")

    directions: list[Direction | LazyDirection] = []
    entries = sum(objective.params[name].numel() for name in names)
    passes = 2 if normalize in ("filter", "layer") or (orthogonal and n > 1) else 1  # to measure, and to make
    try:
        with Progress("draw directions", passes * n * entries, "entries", progress) as bar:
            draws = Draws(
                {name: objective.params[name] for name in names},
                n,
                seed=seed,
                distribution=distribution,
                normalize=normalize,
                orthogonal=orthogonal,
                transposed=objective.transposed,
                progress=bar,
            )
            family = Family(draws, objective.params) if lazy else None
            for first in range(0, n, _TOGETHER):
                numbers = range(first, min(first + _TOGETHER, n))
                stored = _stored(draws, objective.params, numbers) if family is None else {}
                for i in numbers:
                    recipe: dict[str, Any] = {
                        "kind": "random",
                        "distribution": distribution,
                        "normalize": normalize,
                        "orthogonal": orthogonal,
                        "seed": seed,
                        "index": i,
                        "n": n,
                        "exclude": exclude,
                        "excluded": sorted(still),
                        "filters_left_out": draws.left_out[i],
                    }
                    made = Direction(stored[i], recipe) if family is None else LazyDirection(family, i, recipe)
                    _require_length(made, i, n, {name: objective.params[name] for name in names}, normalize)
                    directions.append(made)
            draws.finish()
    except KeyboardInterrupt:
        stopped = Interrupted(f"Stopped after {len(directions)} of {n} directions; they are in its .directions.")
        stopped.directions = tuple(directions)
        raise stopped from None
    return tuple(directions)


def _require_length(
    direction: Direction | LazyDirection, i: int, n: int, params: Mapping[str, Tensor], normalize: str | None
) -> None:
    """Raise where a direction is zero: its filters have no room for it, or there are no weights to scale it to."""
    if direction.recipe["norm"]:
        return
    line = way_out(params, n, normalize, i)
    if not i:
        raise DirectionError(
            f"Direction 1 of {n} is zero: the weights that would move are zero, and normalize={normalize!r} scales to "
            f"them. {line}"
        )
    raise DirectionError(
        f"Direction {i + 1} of {n} is zero: what is not zero of the weights has no room for {n} orthogonal directions. "
        f"{line}"
    )


@dataclass(frozen=True, eq=False)
class Components:
    """Principal directions of a path, with what they explain and what they would explain by chance.

    Unpacks to its directions: ``ln.Plane(found.center, *found)``. Printed, it says its numbers side by side.

    Attributes
    ----------
    directions : tuple of n Direction
    center : dict of str to Tensor
        What variation was taken about: the final weights, or the mean of all snapshots.
    explained : ndarray of shape (n,)
        Part of the path's variation (sum of squared distances from the centre) along each component.
    random_walk : ndarray of shape (n,)
        The same of a random walk of the same number and lengths of steps, in the limit of many dimensions (see
        `components.random_walk`). A path that explains no more says nothing about the landscape.
    norm_drift : float
        Part of the variation that a change of the weights' norm alone accounts for (see `components.norm_drift`).
    snapshots : int
    about : "final" or "mean"
    """

    directions: tuple[Direction, ...]
    center: Params
    explained: NDArray[np.float64]
    random_walk: NDArray[np.float64]
    norm_drift: float
    snapshots: int
    about: components.Center

    def __iter__(self) -> Iterator[Direction]:
        return iter(self.directions)

    def __len__(self) -> int:
        return len(self.directions)

    def __getitem__(self, index: int) -> Direction:
        return self.directions[index]

    def __str__(self) -> str:
        lines = [
            f"{self.snapshots:,} snapshots about {'the final weights' if self.about == 'final' else 'their mean'}",
            "component   explains   a random walk",
        ]
        for i, (mine, chance) in enumerate(zip(self.explained, self.random_walk, strict=True), 1):
            lines.append(f"{i:>9}   {mine:>8.1%}   {chance:>13.1%}")
        return "\n".join([*lines, f"of all variation {self.norm_drift:.1%} is a change of the weights' norm"])


def pca(
    trajectory: Trajectory,
    n: int = 2,
    *,
    center: components.Center = "final",
    scale: Literal["filter"] | None = None,
    exclude: Sequence[str] = (),
    device: torch.device | str = "cpu",
    progress: bool | None = None,
) -> Components:
    """Find the directions along which a training run moved most.

    With X the matrix of snapshots relative to the centre, a row each, G = X X^T (m x m, in float64, summed up over
    blocks of columns) has eigenvalues s_k^2 and eigenvectors u_k, and direction k is X^T u_k / s_k. Memory is two
    blocks of 64 MB and the directions themselves; G takes 8 m^2 bytes. Of more than 3,000 snapshots the directions are
    eigenvectors of X^T X, from blocks of snapshots: N x N where N is up to 3,000, else by the Lanczos iteration, which
    holds about 20 vectors of N entries and reads the snapshots some tens of times.

    Signs are such that the first snapshot has no negative coordinate.

    Parameters
    ----------
    trajectory : Trajectory
        Of more than n snapshots; ``trajectory[::10]`` takes every tenth.
    n : int
        How many directions.
    center : "final" or "mean"
        ``final``: differences from the last snapshot, not centred: of all planes *through the final weights* this one
        leaves the least of the path out. ``mean``: principal components as usual, about the mean of all snapshots,
        which is then the centre of the chart.
    scale : "filter" or None
        None: of norm 1 and orthogonal, so that coordinates are distances between weights. ``filter``: every filter
        scaled to the norm of the centre's (as in `random`), to compare with random planes; such directions span
        another plane, to which `explained` does not apply: see the residuals of `lossnav.project`.
    exclude : sequence of str
        What is left out of the path before anything is computed, as in `random`. Nothing by default: biases and
        normalisation layers are left out of *random* directions because a random step in them is arbitrary; a path's
        step in them is what training did, and to leave it out would call it residual.
    device : torch.device or str
        Where the directions and the centre go; that of the objective, for a chart beside it.
    progress : bool or None
        See `Progress`.

    Returns
    -------
    Components
        That unpacks to n Direction, in the dtype of the model but at least float32.

    Raises
    ------
    OptionError
        If an option is unknown, nothing is left to move, or there are too few snapshots.
    DirectionError
        If a snapshot is not finite, or the path has fewer than n dimensions.
    MissingSnapshotError
        If one cannot be read.

    References
    ----------
    Li et al. 2018, section 7.2 (PCA of differences from the final weights). Departures: by the Gram matrix; their
    code subtracts the mean of these differences again, which is ``center="mean"`` here. Antognini & Sohl-Dickstein
    2018 for the random walk.

    Examples
    --------
    >>> import tempfile, lossnav as ln
    >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ln.Trajectory(model, store=f"{folder}/run") as trajectory:
    ...         for x, y in ((3.0, 1.0), (-3.0, 1.0), (0.0, 0.0)):
    ...             _ = model.weight.copy_(torch.tensor([[x, y]]))
    ...             trajectory.step()
    ...     found = pca(trajectory[1:])
    >>> found.explained.round(3), [d["weight"].abs().round().tolist() for d in found]
    (array([0.9, 0.1]), [[[1.0, 0.0]], [[0.0, 1.0]]])
    """
    require(trajectory, "trajectory")
    _require_number(n)
    if center not in components.CENTERS:
        raise OptionError(f"center={center!r} is unknown. Use 'final' or 'mean'.")
    if scale not in (None, "filter"):
        raise OptionError(f"scale={scale!r} is unknown. Use 'filter' or None.")
    if not 1 <= n < len(trajectory):
        raise OptionError(
            f"{len(trajectory)} snapshots have at most {max(0, len(trajectory) - 1)} directions, not {n}. "
            "Ask for fewer, or record more often."
        )
    structure = trajectory.structure
    exclude = algebra.listed(exclude)
    still = excluded(structure, trajectory.roles, exclude)
    names = [name for name in structure if name not in still]
    if not names:
        raise OptionError(f"exclude={tuple(exclude)!r} leaves no parameter to move. Exclude less, with exclude=().")

    last = {name: tensor.to(_direction_dtype(tensor), copy=True) for name, tensor in trajectory[-1].items()}
    middle = {name: tensor if center == "final" else torch.empty_like(tensor) for name, tensor in last.items()}
    made = [{name: torch.zeros_like(tensor) for name, tensor in last.items()} for _ in range(n)]
    if len(trajectory) > components.DENSE:
        path = _by_rows(trajectory, names, sorted(still), n, center, middle, made, progress)
    else:
        path = _by_columns(trajectory, names, sorted(still), n, center, middle, made, progress)
    values, variation, squares, steps = path
    norms = np.sqrt(squares)
    explained = values[:n] / variation
    chance = components.random_walk(steps, center, n)
    drift = components.norm_drift(norms - (norms[-1] if center == "final" else norms.mean()), variation)
    directions = []
    for i, tensors in enumerate(made):
        if scale == "filter":
            tensors = filter_normalize(tensors, middle, trajectory.transposed)
        recipe = {
            "kind": "pca",
            "index": i,
            "n": n,
            "center": center,
            "scale": scale,
            "exclude": exclude,
            "excluded": sorted(still),
            "snapshots": len(trajectory),
            "steps": [int(trajectory.steps[0]), int(trajectory.steps[-1])],
            "explained": float(explained[i]),
            "random_walk": float(chance[i]),
            "norm_drift": drift,
        }
        directions.append(Direction(algebra.detach(tensors, device), recipe))
    return Components(
        tuple(directions), algebra.detach(middle, device), explained, chance, drift, len(trajectory), center
    )


_Path = tuple[NDArray[np.float64], float, NDArray[np.float64], NDArray[np.float64]]


def _by_columns(
    trajectory: Trajectory,
    names: Sequence[str],
    still: Sequence[str],
    n: int,
    center: components.Center,
    middle: Params,
    made: Sequence[Params],
    progress: bool | None,
) -> _Path:
    """Components by the Gram matrix of the snapshots, written to `made`, and their mean to `middle`.

    Returns eigenvalues, their sum, squared norms of the snapshots and lengths of the steps between them.
    """
    gram, squares = np.zeros((len(trajectory), len(trajectory))), np.zeros(len(trajectory))
    for parts, block in trajectory.columns(names, "pca, products", progress):
        squares += np.einsum("ij,ij->i", block, block)
        about = components.origin(block, center)
        if center == "mean":
            _put(middle, parts, about)
        block -= about
        gram += block @ block.T
    if center == "mean":
        for parts, block in trajectory.columns(still, "pca, centre", progress):
            _put(middle, parts, block.mean(0))
    if not np.isfinite(gram).all():
        raise _not_finite(trajectory, squares)
    values, vectors = components.spectrum(gram)
    _require_dimensions(values, n)
    signs = np.where(vectors[0, :n] < 0, -1.0, 1.0)
    weights = signs * vectors[:, :n] / np.sqrt(values[:n])  # (m, n)
    for parts, block in trajectory.columns(names, "pca, directions", progress):
        block -= components.origin(block, center)
        for direction, columns in zip(made, weights.T @ block, strict=True):
            _put(direction, parts, columns)
    return values, float(values.sum()), squares, components.steps_of(gram)


def _by_rows(
    trajectory: Trajectory,
    names: Sequence[str],
    still: Sequence[str],
    n: int,
    center: components.Center,
    middle: Params,
    made: Sequence[Params],
    progress: bool | None,
) -> _Path:
    """The same of many snapshots, by the matrix of their coordinates, without one of snapshots by snapshots."""

    def blocks() -> Iterator[NDArray[np.float64]]:
        return trajectory.rows(names, "pca, snapshots", progress)

    try:
        found = components.principal(blocks, n, center)
    except components.NotFinitePointsError as error:
        raise _not_finite(trajectory, error.squares) from None
    _require_dimensions(found.values, n)
    for direction, vector in zip(made, found.vectors.T, strict=True):
        _put_all(direction, names, vector)
    if center == "mean":
        _put_all(middle, names, found.origin)
        sums = sum(block.sum(0) for block in trajectory.rows(still, "pca, centre", progress)) if still else 0.0
        _put_all(middle, still, np.asarray(sums) / len(trajectory))
    return found.values, found.variation, found.squares, found.steps


def _not_finite(trajectory: Trajectory, squares: NDArray[np.float64]) -> DirectionError:
    bad = np.flatnonzero(~np.isfinite(squares))
    return DirectionError(
        f"{len(bad)} snapshots hold NaN or infinite weights, the first after step {trajectory.steps[bad[0]]}. Leave "
        f"them out: pca(trajectory[:{int(bad[0])}])."
    )


def _require_dimensions(values: NDArray[np.float64], n: int) -> None:
    if len(values) < n or not values[n - 1] > 1e-12 * max(values[0], np.finfo(np.float64).tiny):
        rank = int((values > 1e-12 * values[0]).sum()) if values[0] > 0 else 0
        raise DirectionError(f"The path has {rank} dimensions, not {n}. Ask for fewer directions.")


def between(a: End | Network, b: End | Network) -> Direction:
    """Return b - a, the direction that leads from one network to another.

    ``Line(a, between(a, b))`` is at a for alpha = 0 and at b for alpha = 1, with the buffers of each (running
    statistics, say) there and their means between; see `Chart.buffers`.

    Parameters
    ----------
    a, b : Objective, nn.Module, path of a checkpoint, or mapping of str to Tensor
        A mapping is a full state dict. The parameters alone are enough of a model without buffers; with buffers they
        are no network, and an objective refuses a chart that leads there.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError
        If names or shapes differ, or buffers are missing; the second of a file.
    CheckpointError
        If a file cannot be read.

    Examples
    --------
    >>> between({"w": torch.tensor([1.0])}, {"w": torch.tensor([4.0])})["w"]
    tensor([3.])
    """
    start, end = together(a, b)
    if difference := algebra.first_difference(end.params, start.params):
        raise StructureMismatchError(
            f"The two points differ at {difference}. Give both the same names and shapes; of files with other names "
            "around them, pass an objective for one end: it finds its own tensors in the other."
        )
    wide = {name: tensor.to(_direction_dtype(tensor)) for name, tensor in end.params.items()}
    recipe = {"kind": "between", "start": start.fingerprint, "end": end.fingerprint} | _buffers_of(start, end)
    return Direction(algebra.subtract(wide, start.params), recipe, (start, end))


def through(a: End | Network, *others: End | Network, orthogonal: bool = True) -> tuple[Direction, ...]:
    """Return the directions of the flat chart through several points: three make a plane, four a volume.

    ``Plane(a, *through(a, b, c))`` holds all three, with their buffers: a at (0, 0), b at (1, 0), and c at (0, 1), or
    where the recipe's ``places`` says. With `orthogonal` the second direction is what of c - a is perpendicular to
    b - a, brought to its length, so that distances on the picture are those in weight space (Garipov et al. 2018,
    appendix A.1).

    Parameters
    ----------
    a, *others : Objective, nn.Module, path of a checkpoint, or mapping of str to Tensor
        Networks of one architecture, as in `between`.
    orthogonal : bool
        Whether directions are made perpendicular and of one length. Else they lead from a to each of the others.

    Returns
    -------
    tuple of Direction
        One for each of the others. ``recipe["places"]`` are the coordinates of all points, a first.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError, CheckpointError
        As `between` does.
    DirectionError
        If the points lie on one line (or in one plane, of four), so that they span no chart.

    References
    ----------
    Garipov, Izmailov, Podoprikhin, Vetrov, Wilson 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of
    DNNs". Departure: lengths are those of b - a instead of 1.

    Examples
    --------
    >>> a, b, c = ({"w": torch.tensor(w)} for w in ([0.0, 0.0], [2.0, 0.0], [1.0, 3.0]))
    >>> d1, d2 = through(a, b, c)
    >>> d2["w"], d2.recipe["places"]
    (tensor([0., 2.]), [[0.0, 0.0], [1.0, 0.0], [0.5, 1.5]])
    """
    if isinstance(a, list | tuple):
        raise OptionError(f"The first point is {described(a)}. Put a star before it: ln.directions.through(*points).")
    if not others:
        raise OptionError("One point spans no chart. Pass two for a line, three for a plane, four for a volume.")
    networks = tuple(together(a, *others))
    for one, other in combinations(networks, 2):
        if words := coincidence(one, other):
            raise DirectionError(words)
    steps = [between(networks[0], other) for other in networks[1:]]
    made: list[Params] = [dict(step) for step in steps]
    places = np.eye(len(steps))  # of each of the others, in coordinates
    if orthogonal:
        flat = [{name: tensor.double() for name, tensor in step.items()} for step in steps]
        for i, step in enumerate(flat):
            for j in range(i):
                places[i, j] = algebra.dot(step, made[j]) / algebra.dot(made[j], made[j])
            rest = algebra.combine(step, [-x for x in places[i, :i]], made[:i])
            length = algebra.norm(made[0])
            places[i, i] = algebra.norm(rest) / length if length else 0.0
            if places[i, i] * length <= 1e-6 * algebra.norm(step):
                raise DirectionError(
                    f"Point {i + 2} of {len(steps) + 1} lies in the span of those before it, so they make no chart of "
                    f"{len(steps)} dimensions. Pass points that differ in more ways, or leave it out."
                )
            made[i] = {name: tensor / float(places[i, i]) for name, tensor in rest.items()}
        made = [{n: t.to(step[n].dtype) for n, t in part.items()} for part, step in zip(made, steps, strict=True)]
    ends = [step.recipe["end"] for step in steps]
    recipe = {
        "kind": "through",
        "points": [steps[0].recipe["start"], *ends],
        "orthogonal": orthogonal,
        "places": [[0.0] * len(steps), *places.tolist()],
    }
    recipe |= _buffers_of(*networks)
    return tuple(Direction(part, recipe | {"index": i}, networks) for i, part in enumerate(made))


def remade(direction: Direction, points: Sequence[Network], fresh: Sequence[Network]) -> Direction:
    """Make a direction between checkpoints again, of the same ones by other names, dtypes or devices.

    Raises
    ------
    DirectionError
        If one of them was changed in the meantime, such as a dict of tensors that are trained on.
    """
    for point in points:
        if point.has_changed:
            raise DirectionError(
                f"{point.source} has changed since the direction was made. Copy what is trained on: "
                "copy.deepcopy(model), or {name: tensor.clone() for name, tensor in model.state_dict().items()}."
            )
    return led(direction.recipe, fresh)


def led(recipe: Mapping[str, Any], networks: Sequence[Network]) -> Direction:
    """Make the direction between checkpoints that a recipe is of."""
    if recipe["kind"] == "between":
        made = between(*networks)
    else:
        made = through(*networks, orthogonal=recipe["orthogonal"])[int(recipe["index"])]
    return made * recipe["times"] if "times" in recipe else made


def gradient(
    objective: Objective, *, exclude: Sequence[str] = (), precision: Literal["native", "float64"] = "native"
) -> Direction:
    """Return the gradient of the loss at the objective's centre: the direction of steepest ascent.

    Parameters
    ----------
    objective : Objective
    exclude : sequence of str
        As in `random`; here nothing by default.
    precision : "native" or "float64"
        What the model computes in.

    Returns
    -------
    Direction
        With the length of the gradient; zero in what is excluded.

    Raises
    ------
    DirectionError
        If it is zero or not finite.
    ObjectiveError
        If the model cannot be differentiated.

    Examples
    --------
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
    >>> gradient(bowl)
    Direction(kind='gradient', norm=4.472)
    """
    exclude = algebra.listed(exclude)
    made = curvature.gradient(objective, exclude=exclude, precision=precision)
    recipe = {"kind": "gradient", "exclude": exclude, "precision": precision} | _at(objective)
    direction = Direction(made, recipe)
    if not 0 < direction.recipe["norm"] < math.inf:
        raise DirectionError(
            f"The gradient at the centre has length {direction.recipe['norm']}, so it leads nowhere. Check that the "
            "loss depends on the parameters and is finite there."
        )
    return direction


def hessian(
    objective: Objective,
    n: int = 2,
    *,
    which: Literal["largest", "smallest", "both"] = "both",
    exclude: Sequence[str] = (),
    seed: int = 0,
    tolerance: float = 1e-3,
    limit: int = 500,
    precision: Literal["native", "float64"] = "native",
    progress: bool | None = None,
) -> tuple[Direction, ...]:
    """Return eigenvectors of the Hessian at the objective's centre: where the loss bends most, up or down.

    Random directions show about the mean curvature; these show the extremes, and a saddle as one (Böttcher and Wheeler
    2022). They have length 1 and keep it: scaled filter by filter they would be eigenvectors no more.

    Parameters
    ----------
    objective : Objective
    n : int
        How many.
    which : "largest", "smallest" or "both"
        Of the largest eigenvalues, of the smallest (the most negative), or in turn of the largest and the smallest.
    exclude : sequence of str
        As in `random`; here nothing by default. The eigenvectors are those of the block of what remains.
    seed, tolerance, limit, precision, progress
        As of `curvature.top_eigenpairs`.

    Returns
    -------
    tuple of n Direction
        ``recipe["eigenvalue"]`` and its ``error`` belong to each.

    Raises
    ------
    OptionError
        If n or an option cannot be.
    DirectionError
        If the Hessian is not finite.

    Examples
    --------
    >>> saddle = Objective.from_function(lambda p: 3 * p["x"][0] ** 2 - p["x"][1] ** 2, {"x": torch.zeros(2)})
    >>> up, down = hessian(saddle)
    >>> up["x"].round(decimals=3), round(down.recipe["eigenvalue"], 3)
    (tensor([1., 0.]), -2.0)
    """
    require(objective, "objective")
    _require_number(n)
    exclude = algebra.listed(exclude)
    k = (n + 1) // 2 if which == "both" else n
    options: dict[str, Any] = {"which": which, "seed": seed, "tolerance": tolerance, "limit": limit}
    options |= {"exclude": exclude, "precision": precision}
    pairs = curvature.top_eigenpairs(objective, k=k, progress=progress, **options)
    if not pairs.vectors:
        raise DirectionError("The Hessian at the centre is not finite and has no eigenvectors. Check the loss there.")
    order = [i for pair in zip(range(k, 2 * k), range(k), strict=True) for i in pair] if which == "both" else range(k)
    return tuple(
        Direction(
            pairs.vectors[which_one],
            {
                "kind": "hessian",
                **options,
                "n": n,
                "index": i,
                "eigenvalue": float(pairs.values[which_one]),
                "error": float(pairs.errors[which_one]),
            }
            | _at(objective),
        )
        for i, which_one in enumerate(list(order)[:n])
    )


def moments(
    optimizer: torch.optim.Optimizer | Mapping[str, Any], model: nn.Module | Objective
) -> tuple[Direction, Direction]:
    """Return the running means that Adam keeps: of the gradient, and of its square.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer or its state dict
        Adam, AdamW or another that keeps ``exp_avg`` and ``exp_avg_sq``, after a step or more.
    model : nn.Module or Objective
        Whose parameters it trains: gives the names. Of an objective, or of a module what its user trains (as the
        default of `Objective`), what does not move is left out.

    Returns
    -------
    first, second : Direction
        ``exp_avg`` (it points uphill) and ``exp_avg_sq`` as they are, without correction of their bias; zero in what
        the optimiser does not train. ``recipe["step"]`` is the number of steps taken.

    Raises
    ------
    DirectionError
        If there are no such means, or they cannot be told to be whose.

    References
    ----------
    Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.999))
    >>> model(torch.tensor([[1.0, -2.0]])).sum().backward(); adam.step()
    >>> first, second = moments(adam, model)
    >>> first["weight"]
    tensor([[ 0.1000, -0.2000]])
    """
    if isinstance(optimizer, nn.Module) or not isinstance(model, nn.Module | Objective):
        raise OptionError(
            f"The order is ln.directions.moments(optimizer, model), and it was given {described(optimizer)} and "
            f"{described(model)}. Pass the optimiser first."
        )
    saved = optimizer.state_dict() if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    names = _trained_names(optimizer, saved, model)
    every = dict(model.named_parameters()) if isinstance(model, nn.Module) else model.params
    like = {name: every[name] for name in select_moving(every)} if isinstance(model, nn.Module) else every
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    state = {name: saved["state"].get(number, {}) for name, number in zip(names, numbers, strict=True)}
    made = []
    for moment in ("exp_avg", "exp_avg_sq"):
        tensors = {
            name: torch.zeros_like(t, dtype=_direction_dtype(t), requires_grad=False) for name, t in like.items()
        }
        for name, kept in state.items():
            if name in tensors and moment in kept:
                if kept[moment].shape != tensors[name].shape:
                    raise DirectionError(
                        f'The optimiser keeps a mean of shape {tuple(kept[moment].shape)} for "{name}", which has '
                        f"{tuple(tensors[name].shape)}. Pass the model that it trains."
                    )
                tensors[name] = kept[moment].detach().to(tensors[name].device, tensors[name].dtype, copy=True)
        steps = [float(kept["step"]) for kept in state.values() if "step" in kept]
        recipe = {"kind": "moment", "moment": moment, "step": max(steps, default=0.0)}
        made.append(Direction(tensors, recipe | {"fingerprint": algebra.fingerprint(tensors)}))
        if not made[-1].recipe["norm"]:
            raise DirectionError(
                f"The optimiser keeps no {moment}, or it is zero. Pass an Adam or AdamW that has taken a step, or its "
                "state dict."
            )
    return made[0], made[1]


def filter_normalize(
    direction: Mapping[str, Tensor], reference: Mapping[str, Tensor], transposed: Mapping[str, int] | None = None
) -> Params:
    """Give every filter of a direction the norm of the matching filter of a reference.

    d_ij <- d_ij * ||theta_ij|| / ||d_ij||, filter j of layer i. A filter of zeros stays zero.

    Parameters
    ----------
    direction, reference : mapping of str to Tensor
        Of the same names and shapes.
    transposed : mapping of str to int, optional
        Weights whose filters run along the second axis, with their number of groups (`Objective.transposed`).

    Raises
    ------
    StructureMismatchError
        If names or shapes differ; the message says where first.

    References
    ----------
    Li et al. 2018, section 4. Departure: they zero biases and norm layers, we leave that choice to `exclude=`.

    Examples
    --------
    >>> filter_normalize({"w": torch.tensor([[1., 0.], [0., 2.]])}, {"w": torch.tensor([[3., 0.], [0., 4.]])})
    {'w': tensor([[3., 0.], [0., 4.]])}
    """
    return _normalize(direction, reference, "filter", transposed or {})


def layer_normalize(direction: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Params:
    """Give every tensor of a direction the Frobenius norm of the matching tensor of a reference.

    d_i <- d_i * ||theta_i|| / ||d_i||, tensor i. A tensor of zeros stays zero.

    Raises
    ------
    StructureMismatchError
        If names or shapes differ.

    References
    ----------
    Li et al. 2018, section 4 (their "layer normalization").

    Examples
    --------
    >>> layer_normalize({"w": torch.tensor([[1., 0.], [0., 0.]])}, {"w": torch.tensor([[3., 0.], [0., 4.]])})
    {'w': tensor([[5., 0.], [0., 0.]])}
    """
    return _normalize(direction, reference, "layer", {})


def weight_normalize(direction: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Params:
    """Scale every entry of a direction by the absolute value of the matching weight.

    d <- d * |theta|, entry by entry.

    Raises
    ------
    StructureMismatchError
        If names or shapes differ.

    Examples
    --------
    >>> weight_normalize({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([-3.0, 0.0])})
    {'w': tensor([3., 0.])}
    """
    _require_same(direction, reference)
    _say_what_is_lost(direction)
    return _weight_scaled(direction, reference)


def cosines(directions: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Cosine of every pair of directions, keyed ``"0,1"``, ``"0,2"``, ..."""
    gram = lazily.gram(directions)
    lengths = [math.sqrt(square) for square in gram.diagonal()]
    return {
        f"{i},{j}": float(gram[i, j] / length) if (length := lengths[i] * lengths[j]) else math.nan
        for i, j in combinations(range(len(directions)), 2)
    }


# ---------------------------------------------------------------------- inside


def _buffers_of(*networks: Network) -> dict[str, list[str]]:
    """What a recipe says of the buffers of checkpoints, where they have some: a fingerprint each."""
    if not any(network.buffers for network in networks):
        return {}
    return {"buffers": [algebra.fingerprint(dict(sorted(network.buffers.items()))) for network in networks]}


def _at(objective: Objective) -> dict[str, Any]:
    """Where derivatives were taken: fingerprints of the objective and of its centre."""
    return {"objective": objective.fingerprint, "center": algebra.fingerprint(objective.params)}


def _trained_names(optimizer: Any, saved: Mapping[str, Any], model: nn.Module | Objective) -> list[str]:
    """Names of an optimiser's parameters in its order: by what it says, by what they are, or by their number."""
    groups = saved["param_groups"]
    if all("param_names" in group for group in groups):
        return [name for group in groups for name in group["param_names"]]
    named = model.params if isinstance(model, Objective) else dict(model.named_parameters())
    if isinstance(optimizer, torch.optim.Optimizer) and isinstance(model, nn.Module):
        known = {id(parameter): name for name, parameter in named.items()}
        names = [known.get(id(parameter)) for group in optimizer.param_groups for parameter in group["params"]]
        if None not in names:
            return cast(list[str], names)
    count = sum(len(group["params"]) for group in groups)
    if isinstance(model, nn.Module) and count == len(trained := [n for n, p in named.items() if p.requires_grad]):
        return trained  # an optimiser of what is trained, as is usual
    if count != len(named):
        raise DirectionError(
            f"The optimiser trains {count} parameters and {len(named)} are known, so whose means it keeps cannot be "
            "told. Pass the optimiser with its model, or make it of model.named_parameters()."
        )
    return list(named)


def _stored(draws: Draws, params: Params, numbers: Sequence[int]) -> dict[int, Params]:
    """All tensors of some of the directions; zeros where nothing is drawn."""
    made = {
        i: {name: torch.zeros(t.shape, dtype=_direction_dtype(t), device=t.device) for name, t in params.items()}
        for i in numbers
    }
    draws.fill({name: {i: made[i][name] for i in numbers} for name in draws.like})
    return made


def _put(params: Params, parts: Sequence[Part], values: NDArray[np.float64]) -> None:
    """Write columns of a block (see `Trajectory.columns`) where they belong."""
    for name, rows, columns in parts:
        target = params[name][rows] if params[name].dim() else params[name]
        target.copy_(torch.from_numpy(values[columns]).reshape(target.shape))


def _put_all(params: Params, names: Sequence[str], values: NDArray[np.float64]) -> None:
    """Write a row of `Trajectory.rows` where it belongs."""
    start = 0
    for name in names:
        target = params[name]
        target.copy_(torch.from_numpy(values[start : start + target.numel()]).reshape(target.shape))
        start += target.numel()


def _direction_dtype(center: Tensor) -> torch.dtype:
    return torch.promote_types(center.dtype, torch.float32)


# ---------------------------------------------------------------------- inside: blocks
# A normalisation cuts each tensor into blocks (its filters, or the whole), one a row of a matrix.

_WHOLE_TENSOR = -1


def _blocks(normalize: str, name: str, transposed: Mapping[str, int]) -> int | None:
    """How a tensor is cut: None or a number of groups as in `to_filters`, or the whole."""
    return _WHOLE_TENSOR if normalize == "layer" else transposed.get(name)


def _to_blocks(tensor: Tensor, groups: int | None) -> Tensor:
    return tensor.reshape(1, -1) if groups == _WHOLE_TENSOR else algebra.to_filters(tensor, groups)


def _from_blocks(blocks: Tensor, shape: torch.Size, groups: int | None) -> Tensor:
    return blocks.reshape(shape) if groups == _WHOLE_TENSOR else algebra.from_filters(blocks, shape, groups)


def _scale(blocks: Tensor, wanted: Tensor) -> Tensor:
    """Give every row the norm of the matching row; rows of zeros stay zero."""
    norms = torch.linalg.vector_norm(blocks, dim=1, keepdim=True)
    factors = torch.linalg.vector_norm(wanted, dim=1, keepdim=True) / torch.where(norms > 0, norms, 1.0)
    scaled: Tensor = blocks * factors
    return scaled


def _weight_scaled(direction: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Params:
    return {name: tensor * reference[name].detach().abs().to(tensor) for name, tensor in direction.items()}


def _normalize(
    direction: Mapping[str, Tensor], reference: Mapping[str, Tensor], how: str, transposed: Mapping[str, int]
) -> Params:
    _require_same(direction, reference)
    _say_what_is_lost(direction)
    scaled: Params = {}
    for name, tensor in direction.items():
        groups = _blocks(how, name, transposed)
        blocks = _scale(
            _to_blocks(tensor.detach().double(), groups), _to_blocks(reference[name].detach().double(), groups)
        )
        scaled[name] = _from_blocks(blocks, tensor.shape, groups).to(tensor.dtype)
    return scaled


def _say_what_is_lost(direction: Mapping[str, Tensor]) -> None:
    """Warn where a direction that is scaled part by part leads to its checkpoints no more, whose buffers differ."""
    names = sorted({name for pair in combinations(getattr(direction, "points", ()), 2) for name in moved(*pair)})
    if names:
        warnings.warn(
            f"Normalised, a direction leads to its checkpoints no more: on a chart of it their {named(names)} are not "
            "taken, and the buffers of the centre hold everywhere.",
            LossnavWarning,
            stacklevel=4,
        )


def _require_number(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise OptionError(f"The number of directions, n, is {described(n)}. Pass a whole number: n=2.")
    if n < 1:
        raise OptionError(f"n={n} directions cannot be drawn. Ask for 1 or more.")


def _require_normalization(normalize: Any) -> None:
    if normalize not in NORMALIZATIONS:
        raise OptionError(f"normalize={normalize!r} is unknown. Use 'filter', 'layer', 'weight' or None.")


def _require_same(direction: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    if difference := algebra.first_difference(direction, reference):
        raise StructureMismatchError(
            f"direction and reference differ at {difference}. Make both from one objective, of the parameters that "
            "move in it: objective.params (objective.at(model).params for other weights) and "
            "ln.directions.random(objective)."
        )
