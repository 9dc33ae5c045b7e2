"""Principal components of a recorded training run, as directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav import params as algebra
from lossnav._utils.validation import require
from lossnav.directions import gram_pca
from lossnav.directions.base import Direction, direction_dtype, require_number
from lossnav.directions.normalize import filter_normalize
from lossnav.directions.registry import DirectionKind, declare
from lossnav.errors import DirectionError, OptionError
from lossnav.objective.roles import excluded
from lossnav.params import Params

if TYPE_CHECKING:
    from lossnav.trajectory.reader import BlockRows
    from lossnav.trajectory.recorder import Trajectory


@dataclass(frozen=True, eq=False)
class Components:
    """Principal directions of a path, the variation they explain, and what a random walk would explain.

    It unpacks to its directions: ``ln.Plane(found.center, *found)``. Printed, it is a table of its numbers.

    Attributes
    ----------
    directions : tuple of n Direction
    center : dict of str to Tensor
        The centre of the variation: the final weights, or the mean of all snapshots.
    explained : ndarray of shape (n,)
        Part of the path's variation (sum of squared distances from the centre) along each component.
    random_walk : ndarray of shape (n,)
        The same for a random walk with the same number and lengths of steps, in the limit of many dimensions (see
        `gram_pca.random_walk`). A path that explains no more than this says nothing about the landscape.
    norm_drift : float
        Part of the variation that is explained by a change of the weights' norm (see `gram_pca.norm_drift`).
    snapshots : int
        Number of snapshots.
    about : "final" or "mean"
        Which centre was used.
    """

    directions: tuple[Direction, ...]
    center: Params
    explained: NDArray[np.float64]
    random_walk: NDArray[np.float64]
    norm_drift: float
    snapshots: int
    about: gram_pca.Center

    def __iter__(self) -> Iterator[Direction]:
        return iter(self.directions)

    def __len__(self) -> int:
        return len(self.directions)

    def __getitem__(self, index: int) -> Direction:
        return self.directions[index]

    def __str__(self) -> str:
        lines = [
            f"{self.snapshots:,} snapshots around {'the final weights' if self.about == 'final' else 'their mean'}",
            "component   explains   a random walk",
        ]
        for i, (mine, chance) in enumerate(zip(self.explained, self.random_walk, strict=True), 1):
            lines.append(f"{i:>9}   {mine:>8.1%}   {chance:>13.1%}")
        return "\n".join([*lines, f"{self.norm_drift:.1%} of the variation is a change of the weights' norm"])


def pca(
    trajectory: Trajectory,
    n: int = 2,
    *,
    center: gram_pca.Center = "final",
    scale: Literal["filter"] | None = None,
    exclude: Sequence[str] = (),
    device: torch.device | str = "cpu",
    progress: bool | None = None,
) -> Components:
    """Compute the principal directions of a training run.

    Let X be the matrix of snapshots relative to the centre, one per row. G = X X^T (m x m, in float64, summed over
    blocks of columns) has eigenvalues s_k^2 and eigenvectors u_k, and direction k is X^T u_k / s_k. Memory use is two
    blocks of 64 MB and the directions themselves; G takes 8 m^2 bytes. For more than 3,000 snapshots, the directions
    are eigenvectors of X^T X, from blocks of snapshots: of the N x N matrix if N is up to 3,000, else by the Lanczos
    iteration, which holds about 20 vectors of N entries and reads the snapshots some tens of times.

    Signs are chosen so that no coordinate of the first snapshot is negative.

    Parameters
    ----------
    trajectory : Trajectory
        With more than n snapshots; ``trajectory[::10]`` takes every tenth.
    n : int
        Number of directions.
    center : "final" or "mean"
        ``final``: components of the differences from the last snapshot, not centred; of all planes *through the final
        weights*, theirs leaves the smallest residual. ``mean``: the usual principal components, around the mean of all
        snapshots, which is then the centre of the chart.
    scale : "filter" or None
        None: the directions have norm 1 and are orthogonal, so coordinates are distances between weights. ``filter``:
        every filter is scaled to the norm of the centre's (as in `random`), to compare with random planes. Such
        directions span another plane, for which `explained` does not hold: see the residuals of `lossnav.project`.
    exclude : sequence of str
        Parameters that are left out of the path before anything is computed, as in `random`. Nothing by default: biases
        and normalisation layers are left out of *random* directions because a random step in them is arbitrary, but
        a path's steps in them are part of training, and would be counted as residual.
    device : torch.device or str
        The device of the directions and of the centre; for a chart, that of the objective.
    progress : bool or None
        See `Progress`.

    Returns
    -------
    Components
        It unpacks to n Direction, in the dtype of the model, float32 or wider.

    Raises
    ------
    OptionError
        If an option is unknown, all parameters are excluded, or there are too few snapshots.
    DirectionError
        If a snapshot is not finite, or the path has fewer than n dimensions.
    MissingSnapshotError
        If a snapshot cannot be read.

    References
    ----------
    Li et al. 2018, section 7.2 (PCA of differences from the final weights). Departures: it uses the Gram matrix; their
    code also subtracts the mean of these differences, which is ``center="mean"`` here. Antognini & Sohl-Dickstein 2018
    for the random walk.

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
    require_number(n)
    if center not in gram_pca.CENTERS:
        raise OptionError(f"center={center!r} is unknown. Use 'final' or 'mean'.")
    if scale not in (None, "filter"):
        raise OptionError(f"scale={scale!r} is unknown. Use 'filter' or None.")
    if not 1 <= n < len(trajectory):
        raise OptionError(
            f"{len(trajectory)} snapshots have at most {max(0, len(trajectory) - 1)} principal directions, got n={n}. "
            "Ask for fewer, or record more often."
        )
    structure = trajectory.structure
    exclude = algebra.listed(exclude)
    still = excluded(structure, trajectory.roles, exclude)
    names = [name for name in structure if name not in still]
    if not names:
        raise OptionError(
            f"exclude={tuple(exclude)!r} leaves no parameter to move. Exclude fewer, for example with exclude=()."
        )

    last = {name: tensor.to(direction_dtype(tensor), copy=True) for name, tensor in trajectory[-1].items()}
    middle = {name: tensor if center == "final" else torch.empty_like(tensor) for name, tensor in last.items()}
    made = [{name: torch.zeros_like(tensor) for name, tensor in last.items()} for _ in range(n)]
    if len(trajectory) > gram_pca.DENSE:
        path = _by_rows(trajectory, names, sorted(still), n, center, middle, made, progress)
    else:
        path = _by_columns(trajectory, names, sorted(still), n, center, middle, made, progress)
    values, variation, squares, steps = path
    norms = np.sqrt(squares)
    explained = values[:n] / variation
    chance = gram_pca.random_walk(steps, center, n)
    drift = gram_pca.norm_drift(norms - (norms[-1] if center == "final" else norms.mean()), variation)
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


_SnapshotMatrix = tuple[NDArray[np.float64], float, NDArray[np.float64], NDArray[np.float64]]


def _by_columns(
    trajectory: Trajectory,
    names: Sequence[str],
    still: Sequence[str],
    n: int,
    center: gram_pca.Center,
    middle: Params,
    made: Sequence[Params],
    progress: bool | None,
) -> _SnapshotMatrix:
    """Compute components from the Gram matrix of the snapshots; write them to `made`, and the mean to `middle`.

    Return eigenvalues, their sum, squared norms of the snapshots, and lengths of the steps between them.
    """
    gram, squares = np.zeros((len(trajectory), len(trajectory))), np.zeros(len(trajectory))
    for parts, block in trajectory.columns(names, "pca, products", progress):
        squares += np.einsum("ij,ij->i", block, block)
        about = gram_pca.origin(block, center)
        if center == "mean":
            _put(middle, parts, about)
        block -= about
        gram += block @ block.T
    if center == "mean":
        for parts, block in trajectory.columns(still, "pca, centre", progress):
            _put(middle, parts, block.mean(0))
    if not np.isfinite(gram).all():
        raise _not_finite(trajectory, squares)
    values, vectors = gram_pca.spectrum(gram)
    _require_dimensions(values, n)
    signs = np.where(vectors[0, :n] < 0, -1.0, 1.0)
    weights = signs * vectors[:, :n] / np.sqrt(values[:n])  # (m, n)
    for parts, block in trajectory.columns(names, "pca, directions", progress):
        block -= gram_pca.origin(block, center)
        for direction, columns in zip(made, weights.T @ block, strict=True):
            _put(direction, parts, columns)
    return values, float(values.sum()), squares, gram_pca.steps_of(gram)


def _by_rows(
    trajectory: Trajectory,
    names: Sequence[str],
    still: Sequence[str],
    n: int,
    center: gram_pca.Center,
    middle: Params,
    made: Sequence[Params],
    progress: bool | None,
) -> _SnapshotMatrix:
    """Do the same for many snapshots, without a matrix of snapshots by snapshots."""

    def blocks() -> Iterator[NDArray[np.float64]]:
        return trajectory.rows(names, "pca, snapshots", progress)

    try:
        found = gram_pca.principal(blocks, n, center)
    except gram_pca.NotFinitePointsError as error:
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
        f"{len(bad)} snapshots contain NaN or infinite weights, the first after step {trajectory.steps[bad[0]]}. Leave "
        f"them out: pca(trajectory[:{int(bad[0])}])."
    )


def _require_dimensions(values: NDArray[np.float64], n: int) -> None:
    if len(values) < n or not values[n - 1] > 1e-12 * max(values[0], np.finfo(np.float64).tiny):
        rank = int((values > 1e-12 * values[0]).sum()) if values[0] > 0 else 0
        raise DirectionError(f"The path has {rank} dimensions, but n={n} directions were requested. Ask for fewer.")


def _put(params: Params, parts: Sequence[BlockRows], values: NDArray[np.float64]) -> None:
    """Write columns of a block (see `Trajectory.columns`) into the tensors that they belong to."""
    for name, rows, columns in parts:
        target = params[name][rows] if params[name].dim() else params[name]
        target.copy_(torch.from_numpy(values[columns]).reshape(target.shape))


def _put_all(params: Params, names: Sequence[str], values: NDArray[np.float64]) -> None:
    """Write a row of `Trajectory.rows` into the tensors that it consists of."""
    start = 0
    for name in names:
        target = params[name]
        target.copy_(torch.from_numpy(values[start : start + target.numel()]).reshape(target.shape))
        start += target.numel()


declare(DirectionKind("pca", on_command_line=True))  # along a training run
