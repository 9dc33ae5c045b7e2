"""Recording a training run: `Trajectory`, one line in any training loop.

Every snapshot is one file, written whole or not at all (see `reader`). A parameter that is frozen is written into the
first snapshot, and again where its values changed; when it is unfrozen, later snapshots contain it as any other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lossnav import params as algebra
from lossnav._utils.moving import TRAINABLE, is_left_open, select_moving
from lossnav._utils.paths import is_trajectory, require_writable
from lossnav._utils.validation import described
from lossnav.checkpoints import weights
from lossnav.errors import CheckpointError, OptionError, StoreError, StructureMismatchError
from lossnav.objective.parameters import require_initialised
from lossnav.params import Params
from lossnav.storage.lease import Lease
from lossnav.trajectory.header import describe_model, tensors_like, write_header
from lossnav.trajectory.reader import TrajectoryReader

DTYPES = ("float16", "bfloat16", "float32", "float64")

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class Trajectory(TrajectoryReader):
    """Snapshots of a model's weights during training, on disk.

    Created from a model, it records::

        with ln.Trajectory(model, store="run.trajectory", every=10) as trajectory:
            for epoch in range(90):
                for x, y in loader:
                    ...
                    optimizer.step()
                    trajectory.step(epoch=epoch, loss=loss)

    It records the initial state (as step 0), then the state after every k-th step, and on closing the state after the
    last step. Only the snapshot being written is held in memory. The model is only read: its weights, buffers, mode,
    gradients and all random states stay as they are. With several processes, record in one of them.

    `Trajectory.open` reads a recorded trajectory. While it records and after, ``len(trajectory)`` is the number of
    snapshots, ``trajectory[-1]`` the recorded weights of one, ``trajectory.state(-1)`` all its weights and buffers,
    ``trajectory[::10]`` a trajectory of every tenth snapshot. Iteration holds one snapshot in memory at a time.

    Parameters
    ----------
    model : nn.Module
        The model that is trained. A compiled or data-parallel model is recorded under the names of the model inside.
    store : path
        The folder to create.
    every : int
        Record the state after every so many steps.
    dtype : "float16", "bfloat16", "float32", "float64" or None
        The dtype in which weights are stored; None: their own. Half precision needs half the disk, and rounds every
        weight by up to 2^-11 (float16) or 2^-8 (bfloat16) of its size: steps shorter than a thousandth of the weights
        disappear in the rounding. Buffers keep their dtype.
    params : "trainable", "all", glob pattern, or a sequence of these
        Which parameters are recorded, as in `Objective`. By default those that are trained; a frozen parameter is
        stored once, and again where it changed or was unfrozen, so every `state` is complete.
    resume : bool or int
        Continue the existing trajectory, with the parameters it records. True: after its last step. A number: after
        that step, for a training that continues from an earlier checkpoint; later snapshots are removed.
    overwrite : bool
        Whether an existing trajectory is removed.

    Attributes
    ----------
    path : Path
    every : int
    steps : ndarray of shape (m,)
        The training step after which each snapshot was taken.

    Raises
    ------
    OptionError
        If an option is unknown, or no parameter matches `params`.
    OutputExistsError, OutputNotWritableError
        If the folder exists, or cannot be written.
    StoreBusyError
        If another process records there. Within one process the later recorder takes over; the earlier one writes
        nothing more.
    StructureMismatchError
        If the trajectory to resume belongs to another model.
    StoreError
        If a snapshot cannot be written (a full disk). Earlier snapshots are intact.

    Examples
    --------
    >>> import tempfile
    >>> model = nn.Linear(1, 1, bias=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Trajectory(model, store=f"{folder}/run", every=2) as trajectory:
    ...         for i in range(5):
    ...             _ = model.requires_grad_(False).weight.fill_(i)
    ...             trajectory.step()
    ...     trajectory.steps.tolist(), [float(params["weight"]) for params in trajectory][1:]
    ([0, 2, 4, 5], [1.0, 3.0, 4.0])
    """

    _dtype: str | None = None
    _model: nn.Module | None = None
    _lease: Lease | None = None
    # for each frozen parameter whose values are stored: its address and version then
    _kept: Mapping[str, tuple[int, int]] = MappingProxyType({})

    def __init__(
        self,
        model: nn.Module,
        *,
        store: str | os.PathLike[str],
        every: int = 1,
        dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None,
        params: str | Sequence[str] = TRAINABLE,
        resume: bool | int = False,
        overwrite: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise OptionError(f"The model is {described(model)}, not an nn.Module. Pass the model that is trained.")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"every must be a positive number of steps, got every={every!r}. Pass 1 or more.")
        if dtype is not None and dtype not in DTYPES:
            raise OptionError(f"dtype={dtype!r} is unknown. Use {', '.join(map(repr, DTYPES))} or None.")
        if not isinstance(resume, int) or resume < 0:
            raise OptionError(
                f"resume must be True, False or a step, got resume={resume!r}. Pass True to continue after the last "
                "step, or the step of the checkpoint that training continues from."
            )
        model = _unwrapped(model)
        require_initialised(model)
        self.path = require_writable(store, overwrite or resume is not False, kind="trajectory")
        self.every, self._dtype = every, dtype
        self._known: dict[int, dict[str, float]] = {}
        self._now: dict[str, Any] = {}
        header = describe_model(model, select_moving(dict(model.named_parameters()), params), every, dtype)
        if not is_left_open(params):
            header["held"] = {}  # an explicit choice of parameters is recorded, and nothing else
        self._lease = self._acquire()
        self._model = model
        try:
            self._begin(model, header, resume, is_left_open(params))
        except BaseException:
            self._release(forget=not is_trajectory(self.path))
            raise

    def step(self, *, epoch: float | None = None, loss: float | Tensor | None = None) -> None:
        """Count one step of training; after every k-th step, record the weights as they are now.

        Parameters
        ----------
        epoch : number, optional
            The pass over the data, counted from where you like; pictures show it.
        loss : float or Tensor of one entry, optional
            The training loss. It is read only where a snapshot is taken, so a GPU need not wait at every step.

        Raises
        ------
        StoreError
            If the snapshot cannot be written, or the trajectory is closed.
        OptionError
            If the loss is not a single number.
        StructureMismatchError
            If the names or shapes of the model's parameters have changed.
        """
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise OptionError(f"The loss has shape {tuple(loss.shape)}. Pass one number, such as loss.mean().")
        if self._model is None:
            raise StoreError(
                f"{self.path} is closed, or was opened only to be read. To record, create it with "
                "ln.Trajectory(model, store=..., resume=True)."
            )
        self._step += 1
        self._now = {"epoch": epoch, "loss": loss.detach() if isinstance(loss, Tensor) else loss}
        if self._step % self.every == 0:
            self._record()

    def close(self) -> None:
        """Record the state after the last step, and release the model. The trajectory can still be read."""
        try:
            if self._model is not None and self._steps[-1] != self._step:
                self._record()
        finally:
            self._release()

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._release()  # the exception may have left the weights in the middle of a step
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # a copy, also in another process that sees the folder, can only be read
        return {**self.__dict__, "_model": None, "_lease": None, "_now": {}}

    # ------------------------------------------------------------------ beginning and ending

    def _begin(self, model: nn.Module, header: dict[str, Any], resume: bool | int, left_open: bool) -> None:
        """Start a trajectory, or continue the existing one, and record the current state."""
        if resume is not False and is_trajectory(self.path):
            self._load()
            self._require_same_model(header, left_open)
            self._step = int(resume) if resume is not True else self._steps[-1] if self._steps else 0
            self._remove_from(self._step + 1)
            self._kept = self._unchanged(dict(model.named_parameters()))
        else:
            self._remove_from(0)
            self._header, self._steps, self._step = header, [], 0 if resume is True else int(resume)
            write_header(self.path, self._header)
        if self._step not in self._steps:
            self._record()

    def _acquire(self) -> Lease:
        """Acquire the right to write into the folder."""
        try:
            return Lease(self.path, of_ours=True)
        except OSError as error:
            raise StoreError(
                f"{self.path} could not be written: {error.strerror or error}. Free some space, or choose another "
                "folder."
            ) from error

    def _release(self, forget: bool = False) -> None:
        """Release the folder for other recorders, and the model."""
        self._model = None
        if self._lease is not None:
            self._lease.release(forget)
            self._lease = None

    def _remove_from(self, step: int) -> None:
        """Remove the snapshots from a step on, and unfinished files of a process that was killed."""
        for file in [*self.path.glob("step-*.safetensors"), *self.path.glob(".step-*.safetensors.*")]:
            if file.name.startswith(".") or int(file.stem.removeprefix("step-")) >= step:
                file.unlink(missing_ok=True)
        if step:
            self._steps = [earlier for earlier in self._steps if earlier < step]
            kept = {n: [k for k in steps if k < step] for n, steps in self._header["kept"].items()}
            self._header["kept"] = {name: steps for name, steps in kept.items() if steps}
            for entry in self._header["parameters"].values():
                if entry.get("since", 0) > step:
                    entry["since"] = step

    def _require_same_model(self, header: Mapping[str, Any], left_open: bool) -> None:
        """Raise unless the model has the recorded parameters. By default, the existing choice of parameters stays."""
        asked = tensors_like(header["parameters"])
        if left_open:
            asked |= tensors_like(header["held"])
            there = self.structure | self.held
            lacking = [name for name in header["parameters"] if name not in there]
            asked = {name: tensor for name, tensor in asked.items() if name in there or name in lacking}
        if difference := algebra.first_difference(asked, self.structure | (self.held if left_open else {})):
            raise StructureMismatchError(
                f"The model and the trajectory in {self.path} differ at {difference}. The trajectory belongs to "
                "another model, or was recorded with other params=; choose another folder, or pass overwrite=True."
            )

    # ------------------------------------------------------------------ writing a snapshot

    def _record(self) -> None:
        """Write the model as it is now."""
        assert self._model is not None
        assert self._lease is not None
        with self._lease.writing():
            self._write_snapshot(self._model)

    def _write_snapshot(self, model: nn.Module) -> None:
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        frozen = self._frozen_to_write(parameters)
        recorded = {**self._header["parameters"], **dict.fromkeys(frozen)}
        written = {name: tensor for name, tensor in parameters.items() if name in recorded}
        like = self.structure | {name: tensor for name, tensor in self.held.items() if name in frozen}
        if difference := algebra.first_difference(written, like):
            raise StructureMismatchError(
                f"The model has changed since recording began: the two differ at {difference}. Start another "
                "trajectory where the model changes."
            )
        tensors = self._converted(written)
        tensors |= {name: buffers[name].detach() for name in self._header["buffers"] if name in buffers}
        marks = {name: float(value) for name, value in self._now.items() if value is not None}
        try:
            # training does not wait for the disk: a file that a power cut damages is recognised when it is read
            weights.write_state(tensors, self._file(self._step), {"step": self._step, **marks}, durable=False)
        except (CheckpointError, StoreError) as error:
            raise StoreError(
                f"The snapshot of step {self._step} could not be written: {error} The {len(self)} earlier snapshots "
                "are intact; continue from them with resume=True."
            ) from error
        self._known[self._step] = marks
        self._steps.append(self._step)
        if frozen:
            self._kept = {**self._kept, **{name: _stamp(parameters[name]) for name in frozen}}
            for name in frozen:
                self._header["kept"].setdefault(name, []).append(self._step)
            write_header(self.path, self._header)

    def _frozen_to_write(self, parameters: Mapping[str, Tensor]) -> list[str]:
        """Return the frozen parameters whose values are not stored yet. Unfrozen ones join those always recorded."""
        for name in [name for name in self._header["held"] if name in parameters and parameters[name].requires_grad]:
            entry = self._header["held"].pop(name)
            self._header["parameters"][name] = {**entry, "since": self._step}  # its earlier values are in `kept`
            write_header(self.path, self._header)
            self.__dict__.pop("structure", None)
        held = {name: parameters[name] for name in self._header["held"] if name in parameters}
        return [name for name, tensor in held.items() if self._kept.get(name) != _stamp(tensor)]

    def _unchanged(self, parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
        """Return the frozen parameters that still have the values of the last snapshot."""
        there = [name for name in self._header["held"] if name in parameters and self._steps]
        return {name: _stamp(parameters[name]) for name in there if self._is_stored(name, parameters[name])}

    def _is_stored(self, name: str, tensor: Tensor) -> bool:
        try:
            with safe_open(self._file(self._holder(name, self._steps[-1])), framework="pt") as file:
                stored = file.get_tensor(name)
        except (OSError, SafetensorError, ValueError):
            return False  # then it is written again
        now = tensor.detach().cpu()
        return algebra.same(stored, now if self._dtype is None else now.to(getattr(torch, self._dtype)))

    def _converted(self, parameters: Mapping[str, Tensor]) -> Params:
        """Return the weights in the dtype in which they are stored."""
        if self._dtype is None:
            return algebra.detach(parameters)
        converted: Params = {}
        for name, tensor in algebra.detach(parameters).items():
            converted[name] = tensor.to(getattr(torch, self._dtype))
            if not torch.isfinite(converted[name]).all() and torch.isfinite(tensor).all():
                raise StoreError(
                    f'"{name}" has weights up to {float(tensor.abs().max()):.3g}, more than {self._dtype} can hold. '
                    "Record with dtype='bfloat16' or None."
                )
        return converted


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile and data-parallel wrappers: an objective knows parameters by its names."""
    while True:
        inside = model.module if isinstance(model, _WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inside, nn.Module):
            return model
        model = inside


def _stamp(tensor: Tensor) -> tuple[int, int]:
    """Return the address and version counter of a tensor: one of them changes when its values are written."""
    return tensor.data_ptr(), tensor._version
