"""A trained curve between two networks: the result of `connect`, in memory and on disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lossnav import checkpoints
from lossnav.charts import BezierCurve, PolygonalChain
from lossnav.charts.io import open_chart, save_chart
from lossnav.errors import CheckpointError, OutputExistsError, PlanMismatchError
from lossnav.evaluation.path_training import PathState
from lossnav.params import Params

_KEEP_EVERY = 60.0  # seconds between two writes of the store
_PASSES = ("passes", "step", "cycle")


@dataclass(frozen=True, eq=False)
class Connection:
    """A curve between two networks, trained by `connect`. Printed, it says how.

    Attributes
    ----------
    curve : BezierCurve or PolygonalChain
        The chart: its first control point is the start, its last the end, bit for bit. A band is a chain of its pivots.
    places, losses : ndarray of shape (steps,)
        Of every step of training: t, and the loss of the minibatch there (of a band, the mean over its pivots).
    options : dict
        How it was trained, in JSON values.
    finished : bool
        Whether the training was completed.
    path : Path or None
        The file that has it.
    """

    curve: BezierCurve | PolygonalChain
    places: NDArray[np.float64]
    losses: NDArray[np.float64]
    options: dict[str, Any]
    finished: bool
    path: Path | None = None

    def __str__(self) -> str:
        said = self.options
        n = len(self.curve.points) - 2
        ends = self.curve.length()
        direct = float(np.sqrt(self.curve.gram[-1, -1]))
        lines = [
            f"curve       {said['kind']}, {n} bend{'' if n == 1 else 's'}"
            + ("" if self.finished else ", not finished"),
            f"training    {said['epochs']} passes, minibatches of {said['batch_size']}, lr {said['lr']:g}, momentum "
            f"{said['momentum']:g}, weight decay {said['weight_decay']:g}, seed {said['seed']}",
            f"BatchNorm   {_BN[said['bn']]}",
            f"length      {ends:.5g}, {ends / direct:.3f} times the distance of the ends" if direct else "length  0",
        ]
        if len(self.losses):
            tail = self.losses[-max(1, len(self.losses) // 10) :]
            of = f"the mean of the last {len(tail):,} minibatches" if len(tail) > 1 else "of the last minibatch"
            lines.append(f"loss        {tail.mean():.4g}, {of}, each at its own t")
        lines += [f"file        {self.path}"] if self.path is not None else []
        return "\n".join([*lines, "note        what the loss does along it is an upper bound for the best curve"])


_BN = {
    "frozen": "buffers interpolated between the ends",
    "batch": "statistics of each minibatch while it was trained",
    "recompute": "statistics of each minibatch while it was trained; recomputed at every point of a surface",
}


class ConnectionFile:
    """The file of a training, written whole or not at all: control points, velocities, history and progress.

    Parameters
    ----------
    path : path
        A .safetensors file.
    identity : mapping
        What the training is, in JSON values: ends, data, options.
    overwrite : bool
        Whether the file of another training is replaced.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any], overwrite: bool) -> None:
        self.path = Path(path).expanduser()
        self.identity = json.loads(json.dumps(identity))
        self._overwrite = overwrite
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether the last write was long enough ago."""
        return time.monotonic() - self._last > _KEEP_EVERY

    def save(self, curve: BezierCurve | PolygonalChain, state: PathState, finished: bool) -> None:
        """Write the state."""
        also: Params = {
            "history/places": torch.tensor(state.places, dtype=torch.float64),
            "history/losses": torch.tensor(state.losses, dtype=torch.float64),
        }
        for j, velocity in enumerate(state.velocities, 1):
            also |= {f"velocity-{j}/{name}": tensor.clone() for name, tensor in velocity.items()}
            also |= {f"master-{j}/{name}": tensor.clone() for name, tensor in state.points[j].items()}
        place = {name: getattr(state, name) for name in _PASSES} | {
            "bends": len(state.velocities),
            "finished": finished,
        }
        about = {"connect": json.dumps(self.identity), "progress": json.dumps(place)}
        save_chart(curve, self.path, also, about)
        self._last = time.monotonic()

    def load(self, state: PathState) -> tuple[PathState, bool] | None:
        """Return the stored state and whether it is finished; None if there is no file, or it is to be replaced.

        Raises
        ------
        PlanMismatchError
            If the file is of another training; the message lists the differences.
        OutputExistsError
            If it is something else.
        """
        if not self.path.exists() or self._overwrite:
            return None
        about = _metadata(self.path)
        if "connect" not in about:
            raise OutputExistsError(
                f"{self.path} exists and is no curve of ln.connect. Choose another file, or pass overwrite=True."
            )
        there = json.loads(about["connect"])
        if different := [key for key in {**there, **self.identity} if there.get(key) != self.identity.get(key)]:
            words = "; ".join(f"{key}: was {there.get(key)!r}, is {self.identity.get(key)!r}" for key in different)
            raise PlanMismatchError(
                f"{self.path} has another curve ({words}). Choose another file, or pass overwrite=True."
            )
        place, stored = json.loads(about["progress"]), checkpoints.load(self.path)
        first, last = state.points[0], state.points[-1]

        def part(prefix: str) -> Params:
            return {name: stored[f"{prefix}/{name}"].to(tensor.device) for name, tensor in first.items()}

        bends = range(1, place["bends"] + 1)
        found = PathState(
            [first, *(part(f"master-{j}") for j in bends), last],
            [part(f"velocity-{j}") for j in bends],
            **{name: place[name] for name in _PASSES},
            places=stored["history/places"].tolist(),
            losses=stored["history/losses"].tolist(),
        )
        return found, bool(place["finished"])


def open_connection(path: str | os.PathLike[str]) -> Connection:
    """Open a curve that `connect` has stored; the file has everything, ends included.

    Parameters
    ----------
    path : path

    Returns
    -------
    Connection
        It may be unfinished: then the call of `connect` resumes it.

    Raises
    ------
    CheckpointError
        If the file is no such curve, or cannot be read.

    Examples
    --------
    >>> import lossnav as ln
    >>> curve = ln.open_connection("curve.safetensors").curve  # doctest: +SKIP
    """
    about = _metadata(path)
    if "connect" not in about or "chart" not in about:
        raise CheckpointError(f"{os.fspath(path)} is no curve of ln.connect. Pass the store= of that call.")
    curve = open_chart(json.loads(about["chart"]), kept=path)
    assert isinstance(curve, BezierCurve | PolygonalChain)
    stored, identity = checkpoints.load(path), json.loads(about["connect"])
    history = [stored[f"history/{name}"].numpy() for name in ("places", "losses")]
    finished = bool(json.loads(about["progress"])["finished"])
    return Connection(curve, history[0], history[1], identity["options"], finished, Path(path))


def _metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{os.fspath(path)} cannot be read as a stored curve: {error}. Pass the store= of ln.connect, or remove it."
        ) from error
