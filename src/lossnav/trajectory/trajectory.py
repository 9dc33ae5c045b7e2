"""A training run in weight space: recorded by one line in any loop, read back one snapshot at a time.

A trajectory is a folder: ``trajectory.json`` says what the model is, ``step-0000000120.safetensors`` holds the weights
and buffers after 120 steps. One file a snapshot rather than one Zarr array for all: a file is written beside its place
and renamed, so it is there whole or not at all, whatever kills the process, with nothing to fold or to repair; each is
an ordinary checkpoint (`lossnav.checkpoints.load_into`); and rows of any tensor can be read without the rest.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lossnav import params as algebra
from lossnav._utils.moving import TRAINABLE, is_left_open, select_moving
from lossnav._utils.paths import (
    TRAJECTORY_HEADER,
    TRAJECTORY_SCHEMA,
    is_trajectory,
    not_written,
    require_writable,
    write_whole,
)
from lossnav._utils.progress import track
from lossnav._utils.validation import described
from lossnav._version import __version__
from lossnav.checkpoints import weights
from lossnav.errors import (
    CheckpointError,
    MissingSnapshotError,
    NotATrajectoryError,
    OptionError,
    SchemaTooNewError,
    StoreError,
    StructureMismatchError,
)
from lossnav.objective.parameters import require_initialised
from lossnav.objective.roles import Role, describe_parameters
from lossnav.params import Params
from lossnav.storage.lease import Lease

SCHEMA_VERSION = 1
DTYPES = ("float16", "bfloat16", "float32", "float64")

_BLOCK = 2**26  # bytes of a block of columns in float64
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class BlockRows(NamedTuple):
    """Some rows of a tensor, and where they stand among the columns of a block."""

    name: str
    rows: slice
    columns: slice


class Trajectory:
    """Snapshots of a model's weights along a training, on disk.

    Made of a model it records::

        with ln.Trajectory(model, store="run.trajectory", every=10) as trajectory:
            for epoch in range(90):
                for x, y in loader:
                    ...
                    optimizer.step()
                    trajectory.step(epoch=epoch, loss=loss)

    The state at the beginning is kept (as step 0), then that after every k-th step, and when it is closed that after
    the last one. Nothing but the snapshot being written is held in memory. The model is only read: its weights,
    buffers, mode and gradients and all random states stay as they are. With several processes record in one of them.

    `Trajectory.open` reads what was recorded. Either way ``len(trajectory)``, ``trajectory[-1]`` (weights),
    ``trajectory.state(-1)`` (weights and buffers), ``trajectory[::10]`` (another trajectory, of every tenth snapshot)
    and iteration, one snapshot in memory at a time, do what they say.

    Parameters
    ----------
    model : nn.Module
        What is trained. A compiled or data-parallel one is recorded by the names of the model inside.
    store : path
        The folder to make.
    every : int
        Keep the state after every so many steps.
    dtype : "float16", "bfloat16", "float32", "float64" or None
        What weights are stored in; None: as they are. Half precision halves the disk, and rounds every weight by up to
        2^-11 (float16) or 2^-8 (bfloat16) of itself: steps shorter than a thousandth of the weights drown in that.
        Buffers are stored as they are.
    params : "trainable", "all", glob pattern, or a sequence of these
        Which parameters are recorded, as in `Objective`. By default those that are trained: what is frozen is kept
        once, and again where it was written to or thawed, so that every `state` is whole.
    resume : bool or int
        Go on with the trajectory that is there, with what it records. True: after its last step. A number: after that
        step, where a training goes on from an earlier checkpoint; later snapshots are removed.
    overwrite : bool
        Whether a trajectory that is there is removed.

    Attributes
    ----------
    path : Path
    every : int
    steps : ndarray of shape (m,)
        Number of the step each snapshot was kept after.

    Raises
    ------
    OptionError
        If an option is unknown, or no parameter matches `params`.
    OutputExistsError, OutputNotWritableError
        If something is there, or the folder cannot be written.
    StoreBusyError
        If another process records there. In one process the later recorder goes on; the earlier writes nothing more.
    StructureMismatchError
        If the trajectory to go on with is another model's.
    StoreError
        If a snapshot cannot be written (a full disk). Those before it are sound.

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

    path: Path
    every: int
    _header: dict[str, Any]
    _steps: list[int]
    _model: nn.Module | None = None
    _lease: Lease | None = None
    _kept: Mapping[str, tuple[int, int]] = MappingProxyType({})  # of what is frozen: where it was, how often written to

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
            raise OptionError(f"every={every!r} is no number of steps. Pass 1 or more.")
        if dtype is not None and dtype not in DTYPES:
            raise OptionError(f"dtype={dtype!r} is unknown. Use {', '.join(map(repr, DTYPES))} or None.")
        if not isinstance(resume, int) or resume < 0:
            raise OptionError(f"resume={resume!r} is no step. Pass True, or the step of the checkpoint to go on from.")
        model = _unwrapped(model)
        require_initialised(model)
        goes_on = resume is not False
        self.path = require_writable(store, overwrite or goes_on, kind="trajectory")
        self.every, self._dtype = every, dtype
        self._known: dict[int, dict[str, float]] = {}
        self._now: dict[str, Any] = {}
        header = _describe(model, select_moving(dict(model.named_parameters()), params), every, dtype)
        if not is_left_open(params):
            header["held"] = {}  # whoever says what is recorded gets no more
        self._lease = self._taken()
        self._model = model
        try:
            self._begin(model, header, resume, is_left_open(params))
        except BaseException:
            self._let_go(forget=not is_trajectory(self.path))
            raise

    def _begin(self, model: nn.Module, header: dict[str, Any], resume: bool | int, left_open: bool) -> None:
        """Begin, or go on with what is there, and keep the state as it is now."""
        if resume is not False and is_trajectory(self.path):
            self._load()
            self._require_same_model(header, left_open)
            self._step = int(resume) if resume is not True else self._steps[-1] if self._steps else 0
            self._remove_from(self._step + 1)
            self._kept = self._those_kept(dict(model.named_parameters()))
        else:
            self._remove_from(0)
            self._header, self._steps, self._step = header, [], 0 if resume is True else int(resume)
            self._write_header()
        if self._step not in self._steps:
            self._keep()

    def _taken(self) -> Lease:
        """The right to record into the folder."""
        try:
            return Lease(self.path, of_ours=True)
        except OSError as error:
            raise StoreError(
                f"{self.path} could not be written: {error.strerror or error}. Make room, or choose another folder."
            ) from error

    def _let_go(self, forget: bool = False) -> None:
        """Let others record into the folder, and let go of the model."""
        self._model = None
        if self._lease is not None:
            self._lease.release(forget)
            self._lease = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Trajectory:
        """Open what was recorded, to read it; of a training that goes on, what there is by now.

        Raises
        ------
        NotATrajectoryError
            If there is none.
        SchemaTooNewError
            If a newer lossnav wrote it.
        """
        self = cls.__new__(cls)
        self.path = Path(path).expanduser()
        self._known = {}
        self._load()
        self.every, self._dtype = self._header["every"], self._header["stored_dtype"]
        return self

    # ------------------------------------------------------------------ recording

    def step(self, *, epoch: float | None = None, loss: float | Tensor | None = None) -> None:
        """Say that a step of training was done; every k-th time the weights as they are now are kept.

        Parameters
        ----------
        epoch : number, optional
            Of the pass over the data, from where one counts; a mark for the pictures.
        loss : float or Tensor of one entry, optional
            What training saw. Read only where a snapshot is kept, so that a GPU need not wait at every step.

        Raises
        ------
        StoreError
            If the snapshot cannot be written, or the trajectory is closed.
        OptionError
            If the loss is no single number.
        StructureMismatchError
            If the model has other parameters by now.
        """
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise OptionError(f"The loss has shape {tuple(loss.shape)}. Pass one number, such as loss.mean().")
        if self._model is None:
            raise StoreError(
                f"{self.path} is closed, or was opened to be read. Record with "
                "ln.Trajectory(model, store=..., resume=True)."
            )
        self._step += 1
        self._now = {"epoch": epoch, "loss": loss.detach() if isinstance(loss, Tensor) else loss}
        if self._step % self.every == 0:
            self._keep()

    def close(self) -> None:
        """Keep the state after the last step too, and let go of the model. What was recorded can be read on."""
        try:
            if self._model is not None and self._steps[-1] != self._step:
                self._keep()
        finally:
            self._let_go()

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._let_go()  # whatever raised may have left the weights in the middle of a step
        self.close()

    def _keep(self) -> None:
        """Write the model as it is now."""
        assert self._model is not None
        assert self._lease is not None
        with self._lease.writing():
            self._write_snapshot(self._model)

    def _write_snapshot(self, model: nn.Module) -> None:
        every, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        written = self._note_what_was_frozen(every)
        recorded = {**self._header["parameters"], **dict.fromkeys(written)}
        parameters = {name: tensor for name, tensor in every.items() if name in recorded}
        like = self.structure | {name: tensor for name, tensor in self.held.items() if name in written}
        if difference := algebra.first_difference(parameters, like):
            raise StructureMismatchError(
                f"The model is not the one whose recording was begun: they differ at {difference}. Begin another "
                "trajectory where the model changes."
            )
        tensors = self._narrowed(parameters)
        tensors |= {name: buffers[name].detach() for name in self._header["buffers"] if name in buffers}
        marks = {name: float(value) for name, value in self._now.items() if value is not None}
        try:
            # not waited for until it is on the disk: a snapshot that a power cut spoils is told from the others
            weights.write_state(tensors, self._file(self._step), {"step": self._step, **marks}, durable=False)
        except (CheckpointError, StoreError) as error:
            raise StoreError(
                f"The snapshot of step {self._step} could not be written: {error} The {len(self)} before it are sound; "
                "go on from them with resume=True."
            ) from error
        self._known[self._step] = marks
        self._steps.append(self._step)
        if written:
            self._kept = {**self._kept, **{name: _trace(every[name]) for name in written}}
            for name in written:
                self._header["kept"].setdefault(name, []).append(self._step)
            self._write_header()

    def _note_what_was_frozen(self, parameters: Mapping[str, Tensor]) -> list[str]:
        """Names of frozen parameters to write beside the others: not kept yet, or written to; thawed ones move."""
        for name in [name for name in self._header["held"] if name in parameters and parameters[name].requires_grad]:
            described = self._header["held"].pop(name)
            self._header["parameters"][name] = {**described, "since": self._step}  # its values so far are those kept
            self._write_header()
            self.__dict__.pop("structure", None)
        held = {name: parameters[name] for name in self._header["held"] if name in parameters}
        return [name for name, tensor in held.items() if self._kept.get(name) != _trace(tensor)]

    def _those_kept(self, parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
        """Where the frozen parameters are that have the values which the last snapshot says."""
        there = [name for name in self._header["held"] if name in parameters and self._steps]
        return {name: _trace(parameters[name]) for name in there if self._is_kept(name, parameters[name])}

    def _is_kept(self, name: str, tensor: Tensor) -> bool:
        try:
            with safe_open(self._file(self._holder(name, self._steps[-1])), framework="pt") as file:
                stored = file.get_tensor(name)
        except (OSError, SafetensorError, ValueError):
            return False  # then it is kept anew
        now = tensor.detach().cpu()
        return algebra.same(stored, now if self._dtype is None else now.to(getattr(torch, self._dtype)))

    def _narrowed(self, parameters: Mapping[str, Tensor]) -> Params:
        """The weights to record, in the dtype to store them in."""
        if self._dtype is None:
            return algebra.detach(parameters)
        made: Params = {}
        for name, tensor in algebra.detach(parameters).items():
            made[name] = tensor.to(getattr(torch, self._dtype))
            if not torch.isfinite(made[name]).all() and torch.isfinite(tensor).all():
                raise StoreError(
                    f'"{name}" has weights up to {float(tensor.abs().max()):.3g}, which {self._dtype} cannot hold. '
                    "Record with dtype='bfloat16' or None."
                )
        return made

    # ------------------------------------------------------------------ reading

    @property
    def steps(self) -> NDArray[np.int64]:
        """Number of the step each snapshot was kept after, shape (m,)."""
        return np.array(self._steps, dtype=np.int64)

    @property
    def epochs(self) -> NDArray[np.float64]:
        """The epoch each snapshot was marked with, shape (m,); nan where it was not."""
        return self._marked("epoch")

    @property
    def losses(self) -> NDArray[np.float64]:
        """The loss each snapshot was marked with, as training saw it, shape (m,); nan where it was not."""
        return self._marked("loss")

    @cached_property
    def structure(self) -> Params:
        """Names, shapes and dtypes of the recorded parameters, as tensors without memory."""
        return {
            name: torch.empty(said["shape"], dtype=getattr(torch, said["dtype"]), device="meta")
            for name, said in self._header["parameters"].items()
        }

    @property
    def held(self) -> Params:
        """The same of the parameters that were frozen all along: each `state` has them, and no snapshot alone."""
        return {
            name: torch.empty(said["shape"], dtype=getattr(torch, said["dtype"]), device="meta")
            for name, said in self._header["held"].items()
        }

    @property
    def buffers(self) -> list[str]:
        """Names of the buffers that are recorded: all that the model saves (``persistent=True``)."""
        return list(self._header["buffers"])

    @property
    def roles(self) -> dict[str, Role]:
        """What each parameter is: weight, bias, or norm (see `Objective`)."""
        return {name: said["role"] for name, said in self._header["parameters"].items()}

    @property
    def transposed(self) -> dict[str, int]:
        """Weights whose filters run along the second axis, with their number of groups."""
        return {name: said["groups"] for name, said in self._header["parameters"].items() if "groups" in said}

    def state(self, index: int) -> Params:
        """Return the weights and buffers of one snapshot, frozen ones too: ``objective.at(trajectory.state(-1))``.

        Raises
        ------
        MissingSnapshotError
            If there is no such snapshot, or its file is gone or damaged.
        """
        return self._read(self._at(index), [*self._header["parameters"], *self._header["held"]])

    @overload
    def __getitem__(self, index: int) -> Params: ...

    @overload
    def __getitem__(self, index: slice) -> Trajectory: ...

    def __getitem__(self, index: int | slice) -> Params | Trajectory:
        if isinstance(index, slice):
            part = copy.copy(self)
            part._model, part._lease, part._steps = None, None, self._steps[index]
            return part
        state = self._read(self._at(index), list(self._header["parameters"]))
        if missing := [name for name in self._header["parameters"] if name not in state]:
            raise self._lost(self._at(index), f'it lacks "{missing[0]}"')
        return {name: state[name] for name in self._header["parameters"]}

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Params]:
        return (self[i] for i in range(len(self)))

    def columns(
        self, names: Sequence[str] | None = None, description: str = "read", progress: bool | None = None
    ) -> Iterator[tuple[list[BlockRows], NDArray[np.float64]]]:
        """Yield the matrix of all snapshots, a row each, some columns at a time.

        Memory is that of one block (64 MB), however many snapshots there are and however large the model is; every
        number is read once.

        Parameters
        ----------
        names : sequence of str, optional
            Parameters to take; by default all.
        description, progress
            Of the bar; see `Progress`.

        Yields
        ------
        parts : list of BlockRows
            Which rows of which tensors the columns are.
        block : ndarray of shape (m, columns)
            In float64.
        """
        shapes = {name: tensor.shape for name, tensor in self.structure.items()}
        entries = max(1, _BLOCK // (8 * max(1, len(self))))
        blocks = list(_blocks({name: shapes[name] for name in (shapes if names is None else names)}, entries))
        for parts in track(blocks, description, "blocks", progress):
            block = np.empty((len(self), parts[-1].columns.stop))
            for i, step in enumerate(self._steps):
                try:
                    places = {name: self._holder(name, step) for name, *_ in parts}
                    for place in dict.fromkeys(places.values()):
                        with safe_open(self._file(place), framework="pt") as file:
                            for name, rows, columns in (part for part in parts if places[part.name] == place):
                                tensor = file.get_slice(name)[rows] if shapes[name] else file.get_tensor(name)
                                block[i, columns] = tensor.double().reshape(-1).numpy()
                except (OSError, SafetensorError, ValueError) as error:
                    raise self._lost(step, error) from error
            yield parts, block

    def rows(
        self, names: Sequence[str], description: str = "read", progress: bool | None = None
    ) -> Iterator[NDArray[np.float64]]:
        """Yield the matrix of all snapshots, a row each, some snapshots at a time.

        Every file is opened once, whatever their number; memory is that of one block (64 MB), or of one snapshot. Where
        snapshots are few and large, `columns` reads as much.

        Parameters
        ----------
        names : sequence of str
            Parameters to take; each row has theirs one after the other.
        description, progress
            Of the bar; see `Progress`.

        Yields
        ------
        block : ndarray of shape (snapshots, columns)
            In float64.
        """
        ends = np.cumsum([0, *(self.structure[name].numel() for name in names)])
        count = max(1, _BLOCK // (8 * max(1, int(ends[-1]))))
        for start in track(range(0, len(self), count), description, "blocks", progress):
            steps = self._steps[start : start + count]
            block = np.empty((len(steps), int(ends[-1])))
            for row, step in zip(block, steps, strict=True):
                try:
                    places = {name: self._holder(name, step) for name in names}
                    for place in dict.fromkeys(places.values()):
                        with safe_open(self._file(place), framework="pt") as file:
                            for i, name in enumerate(names):
                                if places[name] == place:
                                    row[ends[i] : ends[i + 1]] = file.get_tensor(name).double().reshape(-1).numpy()
                except (OSError, SafetensorError, ValueError) as error:
                    raise self._lost(step, error) from error
            yield block

    def __repr__(self) -> str:
        entries = sum(tensor.numel() for tensor in self.structure.values())
        steps = f", steps {self._steps[0]:,} to {self._steps[-1]:,}" if self._steps else ""
        return f"Trajectory({self._header['model']}, {len(self):,} snapshots{steps}, {entries:,} parameters)"

    def __getstate__(self) -> dict[str, Any]:
        # another process can read it, where it sees the folder
        return {**self.__dict__, "_model": None, "_lease": None, "_now": {}}

    # ------------------------------------------------------------------ inside

    def _file(self, step: int) -> Path:
        return self.path / f"step-{step:010d}.safetensors"

    def _holder(self, name: str, step: int) -> int:
        """The step whose snapshot holds a tensor as it was after `step`: that one, or of what was frozen an earlier."""
        if step >= self._header["parameters"].get(name, {}).get("since", 0 if name in self.structure else math.inf):
            return step
        return max((earlier for earlier in self._header["kept"].get(name, ()) if earlier <= step), default=step)

    def _read(self, step: int, names: Sequence[str]) -> Params:
        """The snapshot of a step, with these parameters where an earlier one holds them."""
        try:
            # by itself: to load a checkpoint, the folder is looked through for shards, 20,000 times 20,000 names
            found = self._tensors(step)
            for name in names:
                if name not in found and (place := self._holder(name, step)) != step:
                    with safe_open(self._file(place), framework="pt") as file:
                        found[name] = file.get_tensor(name)
        except (CheckpointError, OSError, SafetensorError) as error:
            raise self._lost(step, error) from error
        if lacking := [name for name in names if name in self._header["held"] and name not in found]:
            raise self._lost(step, f'no snapshot up to it has "{lacking[0]}", which was frozen')
        return {name: tensor.to(self._dtype_of(name) or tensor.dtype) for name, tensor in found.items()}

    def _tensors(self, step: int) -> Params:
        """All that one file holds."""
        with safe_open(self._file(step), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping

    def _at(self, index: int) -> int:
        try:
            return self._steps[index]
        except IndexError:
            raise MissingSnapshotError(
                f"There is no snapshot {index}: {self.path} has {len(self)}. Count from 0, or from -1 backwards."
            ) from None

    def _lost(self, step: int, why: object) -> MissingSnapshotError:
        return MissingSnapshotError(
            f"The snapshot of step {step} in {self.path} cannot be read: {why}. It was removed or damaged; remove its "
            "file and open the trajectory anew."
        )

    def _dtype_of(self, name: str) -> torch.dtype | None:
        said = self._header["parameters"].get(name) or self._header["held"].get(name)
        return None if said is None else getattr(torch, said["dtype"])

    def _marked(self, mark: str) -> NDArray[np.float64]:
        for step in self._steps:
            if step not in self._known:
                try:
                    with safe_open(self._file(step), framework="pt") as file:
                        metadata = file.metadata() or {}
                except (OSError, SafetensorError) as error:
                    raise self._lost(step, error) from error
                self._known[step] = {key: float(value) for key, value in metadata.items() if key != "step"}
        return np.array([self._known[step].get(mark, math.nan) for step in self._steps], dtype=np.float64)

    def _load(self) -> None:
        """Read the header, and which snapshots there are."""
        if not is_trajectory(self.path):
            raise NotATrajectoryError(
                f"{self.path} is no recorded trajectory. Pass the folder that ln.Trajectory(model, store=...) made."
            )
        self._header = json.loads((self.path / TRAJECTORY_HEADER).read_text())
        if self._header["schema_version"] > SCHEMA_VERSION:
            raise SchemaTooNewError(
                f"{self.path} has schema version {self._header['schema_version']} and this lossnav ({__version__}) "
                f"reads up to {SCHEMA_VERSION}. Upgrade with: pip install --upgrade lossnav"
            )
        for part in ("held", "kept"):
            self._header.setdefault(part, {})  # all that there is was recorded, before what is frozen was told apart
        self._steps = sorted(int(file.stem.removeprefix("step-")) for file in self.path.glob("step-*.safetensors"))

    def _write_header(self) -> None:
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise not_written(self.path, error) from error
        write_whole(self.path / TRAJECTORY_HEADER, json.dumps(self._header, indent=1))

    def _remove_from(self, step: int) -> None:
        """Remove snapshots from a step on, and what a process that was killed left of one."""
        for file in [*self.path.glob("step-*.safetensors"), *self.path.glob(".step-*.safetensors.*")]:
            if file.name.startswith(".") or int(file.stem.removeprefix("step-")) >= step:
                file.unlink(missing_ok=True)
        if step:
            self._steps = [kept for kept in self._steps if kept < step]
            kept = {n: [k for k in steps if k < step] for n, steps in self._header["kept"].items()}
            self._header["kept"] = {name: steps for name, steps in kept.items() if steps}
            for described in self._header["parameters"].values():
                if described.get("since", 0) > step:
                    described["since"] = step

    def _require_same_model(self, header: Mapping[str, Any], left_open: bool) -> None:
        """Raise unless the model has what is recorded; left to the rule, what is recorded there stays so."""
        asked = {name: torch.empty(said["shape"], device="meta") for name, said in header["parameters"].items()}
        if left_open:
            asked |= {name: torch.empty(said["shape"], device="meta") for name, said in header["held"].items()}
            there = self.structure | self.held
            lacking = [name for name in header["parameters"] if name not in there]
            asked = {name: tensor for name, tensor in asked.items() if name in there or name in lacking}
        if difference := algebra.first_difference(asked, self.structure | (self.held if left_open else {})):
            raise StructureMismatchError(
                f"The model and the trajectory in {self.path} differ at {difference}. It is another model's, or was "
                "recorded with other params=; choose another folder, or pass overwrite=True."
            )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and data-parallel wrappers: its names are those of the model that is evaluated."""
    while True:
        inside = model.module if isinstance(model, _WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inside, nn.Module):
            return model
        model = inside


def _trace(tensor: Tensor) -> tuple[int, int]:
    """What changes when a tensor is written to, or is put elsewhere."""
    return tensor.data_ptr(), tensor._version


def _describe(model: nn.Module, names: Sequence[str], every: int, dtype: str | None) -> dict[str, Any]:
    """What is said of a model in the header."""
    parameters, persistent = dict(model.named_parameters()), set(model.state_dict(keep_vars=True))
    others = [name for name, tensor in parameters.items() if name not in names and tensor.is_floating_point()]
    roles, transposed = describe_parameters(model, [*names, *others])
    said: dict[str, dict[str, Any]] = {
        name: {
            "shape": list(parameters[name].shape),
            "dtype": str(parameters[name].dtype).removeprefix("torch."),
            "role": roles[name],
        }
        for name in (*names, *others)
    }
    for name, groups in transposed.items():
        said[name]["groups"] = groups
    return {
        "schema": TRAJECTORY_SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "lossnav_version": __version__,
        "torch_version": torch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": type(model).__name__,
        "every": every,
        "stored_dtype": dtype,
        "parameters": {name: said[name] for name in names},
        "held": {name: said[name] for name in others},
        "kept": {},  # the steps whose snapshots hold what is frozen, or was
        "buffers": [name for name, _ in model.named_buffers() if name in persistent],
    }


def _blocks(shapes: Mapping[str, Sequence[int]], entries: int) -> Iterator[list[BlockRows]]:
    """Cut tensors into whole rows, and join these to blocks of about so many entries."""
    parts: list[BlockRows] = []
    filled = 0
    for name, shape in shapes.items():
        rows, size = (shape[0] if len(shape) else 1), math.prod(shape[1:])
        taken = 0
        while taken < rows:
            more = min(rows - taken, max(1, (entries - filled) // max(1, size)))
            parts.append(BlockRows(name, slice(taken, taken + more), slice(filled, filled + more * size)))
            taken, filled = taken + more, filled + more * size
            if filled >= entries:
                yield parts
                parts, filled = [], 0
    if parts:
        yield parts
