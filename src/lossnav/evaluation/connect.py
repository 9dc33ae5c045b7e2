"""The verb `connect`: train a curve of low loss between two networks."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav._utils.conclusion import conclude
from lossnav._utils.paths import require_writable
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav._utils.validation import described, require
from lossnav.charts import BezierCurve, PolygonalChain
from lossnav.errors import NonFiniteCenterError, ObjectiveError, OptionError
from lossnav.evaluation.connection import Connection, ConnectionFile
from lossnav.evaluation.elastic_band import BETWEEN, train_band
from lossnav.evaluation.minibatches import ShuffledData
from lossnav.evaluation.path_training import PathState, TrainingOptions, straight, train_bends
from lossnav.evaluation.slopes import Slopes
from lossnav.objective.networks import End, coincidence, network_of
from lossnav.objective.objective import Objective
from lossnav.params import Checkpoint, Params

ConnectionKind = Literal["bezier", "chain", "band"]
KINDS: dict[str, type[BezierCurve] | type[PolygonalChain]] = {
    "bezier": BezierCurve,
    "chain": PolygonalChain,
    "band": PolygonalChain,
}
_BENDS = {"bezier": 1, "chain": 1, "band": 3}
_LR = {"bezier": 0.03, "chain": 0.03, "band": 0.03}
_SAMPLES = 2000  # of the profile that decides where a band gets pivots


def connect(
    a: Objective,
    b: End,
    kind: ConnectionKind = "bezier",
    *,
    bends: int | None = None,
    epochs: int = 5,
    batch_size: int = 128,
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    cycles: int = 4,
    bn: Literal["frozen", "batch", "recompute"] | None = None,
    seed: int = 0,
    store: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Connection:
    """Train a curve of low loss from one network to another, on the objective's data.

    "bezier" and "chain": in each step a t is drawn uniformly from [0, 1] and a minibatch from the data; every bend
    moves along its gradient of loss(w(t)) + weight_decay / 2 |w(t)|², by SGD with momentum. The bends start on the
    straight line; the ends never move. "band": AutoNEB, a chain of pivots in which each moves by the gradient without
    its part along the band, at equal distances; after each cycle, pivots are inserted where the loss between two of
    them exceeds their linear interpolation by 10 % of the range. Nothing that is given is changed.

    The loss along the result is an upper bound of that along the best such curve.

    Parameters
    ----------
    a : Objective
        The start, with the data and the loss. Train on training data, and evaluate on both.
    b : Objective, nn.Module, path or dict of str to Tensor
        The end: weights and buffers of the same architecture, such as ``ln.align(a, other).params``.
    kind : "bezier", "chain" or "band"
    bends : int, optional
        Free control points; 1 by default, for a band 3 pivots at first.
    epochs : int
        Passes over the data; of a band, in each cycle. A function without data has one step a pass.
    batch_size : int
        Samples of a minibatch, where the data consists of tensors; else the objective's own batches are used.
    lr : float, optional
        Learning rate, 0.03 by default: constant for half of the training, then falling linearly to 1 % of it.
    momentum, weight_decay : float
    cycles : int
        Of a band.
    bn : "frozen", "batch" or "recompute", optional
        BatchNorm while training; by default as in the objective. "frozen": buffers interpolated between those of the
        ends at every t. "batch" and "recompute": statistics of each minibatch.
    seed : int
        Of the order of the data, of t, and of the random numbers of a model.
    store : path, optional
        A .safetensors file that is written as training goes on (each minute, and at the end), with all control points,
        the history and the state. If it has this training already, it is resumed, to the same bits; if it is finished,
        it is returned. `open_connection` opens it.
    overwrite : bool
        Whether an existing file is replaced.
    progress : bool or None
        Whether to show a progress bar (None: on a terminal).

    Returns
    -------
    Connection
        ``connection.curve`` is a chart: ``ln.evaluate(objective, connection.curve, ln.Grid(t=(0, 1, 61)))``.

    Raises
    ------
    OptionError
        If an option is invalid, or the two networks are the same.
    StructureMismatchError, CheckpointMismatchError
        If names or shapes of the networks differ; the second for a file.
    ObjectiveError
        If weights or losses are not finite, or the loss has no gradient.
    PlanMismatchError, OutputExistsError, OutputNotWritableError
        If the store is of another training, something else, or cannot be written.
    Interrupted
        After Ctrl-C or SIGTERM, with the curve so far in ``.partial``.

    References
    ----------
    Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", section 3.2.
    Draxler et al. 2018, "Essentially No Barriers in Neural Network Energy Landscape", algorithms 1 and 2; equal spacing
    by interpolation in place of springs; all pivots share a minibatch.

    Examples
    --------
    >>> ring = Objective.from_function(
    ...     lambda p: ((p["x"] ** 2).sum() - 1) ** 2, {"x": torch.tensor([1.0, 0.0])}
    ... )
    >>> curve = connect(ring, {"x": torch.tensor([-0.6, 0.8])}, epochs=300, lr=0.1).curve
    >>> round(ring.evaluate(curve([0.5]))["loss"], 2), curve([1.0])
    (0.0, {'x': tensor([-0.6000,  0.8000])})
    """
    require(a, "objective", "first network")
    if kind not in KINDS:
        raise OptionError(f'kind is {kind!r}. Pass "bezier", "chain" or "band".')
    bends = _BENDS[kind] if bends is None else bends
    lr = _LR[kind] if lr is None else lr
    _require_options(bends=bends, epochs=epochs, batch_size=batch_size, cycles=cycles)
    _require_rates(lr=lr, momentum=momentum, weight_decay=weight_decay)
    policy = a.bn if bn is None else bn
    if policy not in ("frozen", "batch", "recompute"):
        raise OptionError(f'bn is {policy!r}. Pass "frozen", "batch" or "recompute".')
    options = TrainingOptions(epochs, batch_size, lr, momentum, weight_decay, seed)
    trained: dict[str, Any] = {"kind": kind, "epochs": epochs, "batch_size": batch_size, "lr": lr, "momentum": momentum}
    trained |= {"weight_decay": weight_decay, "bn": policy, "seed": seed, "data": a.data_fingerprint}
    trained |= {"cycles": cycles} if kind == "band" else {}
    ends = _NetworkPair(a, b)
    state = straight(ends.points[0], ends.points[1], bends)
    file = None
    if store is not None:
        require_writable(store, overwrite=True, kind="file")
        identity = {"options": trained, "bends": bends, **ends.identity}
        file = ConnectionFile(store, identity, overwrite)
        if (there := file.load(state)) is not None:
            state, finished = there
            if finished:
                return _made(ends, kind, state, trained, True, file)
    with random_state.preserved(device=a.device), Progress("connect", None, "steps", progress) as bar:
        with bar.phase("checking the ends"):
            ends.require_finite_losses()
            data, slopes = ShuffledData(a, batch_size, seed), Slopes(a, policy)
        bar.total = epochs * data.steps * (cycles if kind == "band" else 1)
        done = state.cycle * epochs * data.steps + state.passes * data.steps + state.step
        bar.advance(done, known=True)

        def keep() -> None:
            if file is not None and file.due():
                file.save(ends.curve(kind, state, trained), state, False)

        with StopRequests() as stop:
            if kind == "band":
                profile = _Profile(a, ends, seed)
                train_band(slopes, data, state, options, cycles, ends.buffers_at, profile, bar, stop, keep)
                finished = state.cycle == cycles
            else:
                train_bends(KINDS[kind].__name__, slopes, data, state, options, ends.buffers_at, bar, stop, keep)
                finished = state.passes == epochs
            if file is not None:
                file.save(ends.curve(kind, state, trained), state, finished)
    made = _made(ends, kind, state, trained, finished, file)
    kept = (
        f"The same call resumes from {store}."
        if store is not None
        else "The curve so far is in the .partial of this exception."
    )
    return conclude(made, None if finished else stop.signal, f"{bar.done:,} of {bar.total:,} steps", kept=kept)


def _made(
    ends: _NetworkPair,
    kind: str,
    state: PathState,
    trained: dict[str, Any],
    finished: bool,
    file: ConnectionFile | None,
) -> Connection:
    places, losses = (np.array(values, np.float64) for values in (state.places, state.losses))
    curve = ends.curve(kind, state, trained)
    return Connection(curve, places, losses, trained, finished, None if file is None else file.path)


class _NetworkPair:
    """The two networks, and the curves between them."""

    def __init__(self, a: Objective, b: End) -> None:
        start, end = network_of(a), network_of(b, None if isinstance(b, Objective) else a.anatomy)
        line = PolygonalChain(a, end).fitted(a)  # refuses what does not fit, and knows buffers between
        for network in (start, end):
            for name, tensor in (network.params | network.buffers).items():
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise ObjectiveError(
                        f'"{name}" of {network.source[0].lower()}{network.source[1:]} is not finite (NaN or infinite). '
                        "Pass weights of a run that did not diverge."
                    )
        self.points = [algebra.copy(line.points[name]) for name in ("start", "end")]
        if words := coincidence(start, end):
            raise OptionError(words)
        self._objective, self._line = a, line
        self._buffers = [dict(line.buffers([t])) for t in (0.0, 1.0)]

    def buffers_at(self, t: float) -> Params:
        """Return the buffers at t: interpolated between those of the ends; empty if they do not vary."""
        return self._line.buffers([t])

    @property
    def identity(self) -> dict[str, Any]:
        """What a stored curve must be of."""
        weights = [algebra.fingerprint(dict(sorted(point.items()))) for point in self.points]
        buffers = [algebra.fingerprint(dict(sorted(point.items()))) for point in self._buffers]
        plain = self._objective.without_metrics()
        return {"start": weights[0], "end": weights[1], "buffers": buffers, "objective": plain.fingerprint}

    def curve(self, kind: str, state: PathState, trained: Mapping[str, Any]) -> BezierCurve | PolygonalChain:
        """Return the chart of a state; its tensors are copies."""
        last = len(state.points) - 1
        made = []
        for j, point in enumerate(state.points):
            like = self.points[0]
            weights = {name: point[name].to(tensor.dtype, copy=True) for name, tensor in like.items()}
            weights = self.points[0 if j == 0 else 1] if j in (0, last) else weights
            buffers = self._buffers[0 if j == 0 else 1] if j in (0, last) else self.buffers_at(j / last)
            made.append(Checkpoint(weights, buffers) if buffers else weights)
        return KINDS[kind](*made, trained=trained)

    def require_finite_losses(self) -> None:
        """Raise unless the loss at both ends is finite."""
        for t, word in ((0.0, "first"), (1.0, "second")):
            loss = self._objective.evaluate(self._line([t]))["loss"]
            if not math.isfinite(loss):
                raise NonFiniteCenterError(
                    f"The loss of the {word} network is {loss} on this data. Check its weights and the data: "
                    "objective.evaluate(...) at both ends must be finite."
                )


class _Profile:
    """Losses along a band on a fixed part of the data, for the insertion of pivots."""

    def __init__(self, objective: Objective, ends: _NetworkPair, seed: int) -> None:
        count = objective.samples or 0
        if count > _SAMPLES and objective.population is None and ShuffledData(objective, 1, 0).splits:
            objective = objective.subset(_SAMPLES, seed)
        self._objective, self._ends = objective.without_metrics(), ends

    def __call__(self, points: list[Params]) -> NDArray[np.float64]:
        """Return losses at equal distances along every segment, shape (segments, BETWEEN + 2)."""
        last, share = len(points) - 1, np.linspace(0.0, 1.0, BETWEEN + 2)
        rows = []
        for i, (a, b) in enumerate(itertools.pairwise(points)):
            row = []
            for x in share:
                here = {name: tensor.lerp(b[name], float(x)) for name, tensor in a.items()}
                buffers = self._ends.buffers_at((i + float(x)) / last)
                row.append(self._objective.evaluate(Checkpoint(here, buffers))["loss"])
            rows.append(row)
        return np.array(rows)


def _require_options(**numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} is {described(value)}. Pass a whole number from 1 upwards.")


def _require_rates(**rates: float) -> None:
    for name, value in rates.items():
        real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        fits = real and (value > 0 if name == "lr" else 0 <= value < (1 if name == "momentum" else math.inf))
        if not fits:
            allowed = {"lr": "above 0", "momentum": "from 0 to below 1", "weight_decay": "from 0 upwards"}[name]
            raise OptionError(f"{name} is {described(value)}. Pass a number {allowed}.")
