"""Reading a recorded trajectory: snapshots one by one, or all of them as a matrix, a block at a time.

A trajectory is a folder: ``trajectory.json`` describes the model (see `header`), ``step-0000000120.safetensors`` holds
the weights and buffers after 120 steps. There is one file per snapshot rather than one Zarr array for all of them. A
file is written under a temporary name and then renamed, so it is complete or absent, whatever kills the process; each
is an ordinary checkpoint (`lossnav.checkpoints.load_into`); and rows of any tensor can be read without the rest.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lossnav._utils.progress import track
from lossnav.errors import CheckpointError, MissingSnapshotError
from lossnav.objective.roles import Role
from lossnav.params import Params
from lossnav.trajectory.header import read_header, tensors_like

_BLOCK = 2**26  # bytes of a block of columns in float64


class BlockRows(NamedTuple):
    """Some rows of a tensor, and the columns of a block that hold them."""

    name: str
    rows: slice
    columns: slice


class TrajectoryReader:
    """Everything that reads a recorded trajectory; `Trajectory` is this, and records too.

    ``len(trajectory)`` is the number of snapshots, ``trajectory[-1]`` the recorded weights of one,
    ``trajectory.state(-1)`` all its weights and buffers, ``trajectory[::10]`` a trajectory of every tenth snapshot.
    Iteration holds one snapshot in memory at a time.
    """

    path: Path
    every: int
    _header: dict[str, Any]
    _steps: list[int]
    _known: dict[int, dict[str, float]]  # the marks (epoch, loss) of snapshots, as far as they were read

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a recorded trajectory to read it. Of a run that still trains, read the snapshots written so far.

        Parameters
        ----------
        path : path
            The folder.

        Raises
        ------
        NotATrajectoryError
            If the folder holds no trajectory.
        SchemaTooNewError
            If a newer lossnav wrote it.
        """
        self = cls.__new__(cls)
        self.path = Path(path).expanduser()
        self._known = {}
        self._load()
        self.every = self._header["every"]
        return self

    @property
    def steps(self) -> NDArray[np.int64]:
        """The training step after which each snapshot was taken, shape (m,)."""
        return np.array(self._steps, dtype=np.int64)

    @property
    def epochs(self) -> NDArray[np.float64]:
        """The epoch of each snapshot, shape (m,); nan where `step` was given none."""
        return self._marked("epoch")

    @property
    def losses(self) -> NDArray[np.float64]:
        """The training loss of each snapshot as `step` was given it, shape (m,); nan where it was given none."""
        return self._marked("loss")

    @cached_property
    def structure(self) -> Params:
        """Names, shapes and dtypes of the recorded parameters, as tensors without memory."""
        return tensors_like(self._header["parameters"])

    @property
    def held(self) -> Params:
        """The same for the parameters that were always frozen. `state` returns them; not every file contains them."""
        return tensors_like(self._header["held"])

    @property
    def buffers(self) -> list[str]:
        """Names of the recorded buffers: all that the model saves (``persistent=True``)."""
        return list(self._header["buffers"])

    @property
    def roles(self) -> dict[str, Role]:
        """The role of each parameter: weight, bias, norm or scale (see `Objective`)."""
        return {name: entry["role"] for name, entry in self._header["parameters"].items()}

    @property
    def transposed(self) -> dict[str, int]:
        """Weights whose filters lie along the second axis, with their number of groups."""
        return {name: entry["groups"] for name, entry in self._header["parameters"].items() if "groups" in entry}

    def state(self, index: int) -> Params:
        """Return all weights and buffers of a snapshot, frozen ones included: ``objective.at(trajectory.state(-1))``.

        Raises
        ------
        MissingSnapshotError
            If there is no such snapshot, or its file is missing or damaged.
        """
        return self._read(self._at(index), [*self._header["parameters"], *self._header["held"]])

    @overload
    def __getitem__(self, index: int) -> Params: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Params | Self:
        if isinstance(index, slice):
            part = copy.copy(self)  # which is closed, as an unpickled one is
            part._steps = self._steps[index]
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
        """Yield the matrix of all snapshots (one row each), a block of columns at a time.

        Memory use is one block (64 MB), however many snapshots there are and however large the model is. Every number
        is read once.

        Parameters
        ----------
        names : sequence of str, optional
            The parameters to read; all by default.
        description, progress
            For the progress bar; see `Progress`.

        Yields
        ------
        parts : list of BlockRows
            Which rows of which tensors the columns hold.
        block : ndarray of shape (m, columns)
            In float64.

        Raises
        ------
        MissingSnapshotError
            If the file of a snapshot is missing or damaged.
        """
        shapes = {name: tensor.shape for name, tensor in self.structure.items()}
        entries = max(1, _BLOCK // (8 * max(1, len(self))))
        blocks = list(_blocks({name: shapes[name] for name in (shapes if names is None else names)}, entries))
        for parts in track(blocks, description, "blocks", progress):
            block = np.empty((len(self), parts[-1].columns.stop))
            for i, step in enumerate(self._steps):
                try:
                    holders = {name: self._holder(name, step) for name, *_ in parts}
                    for holder in dict.fromkeys(holders.values()):
                        with safe_open(self._file(holder), framework="pt") as file:
                            for name, rows, columns in (part for part in parts if holders[part.name] == holder):
                                tensor = file.get_slice(name)[rows] if shapes[name] else file.get_tensor(name)
                                block[i, columns] = tensor.double().reshape(-1).numpy()
                except (OSError, SafetensorError, ValueError) as error:
                    raise self._lost(step, error) from error
            yield parts, block

    def rows(
        self, names: Sequence[str], description: str = "read", progress: bool | None = None
    ) -> Iterator[NDArray[np.float64]]:
        """Yield the matrix of all snapshots (one row each), a block of rows at a time.

        Every file is opened once, whatever their number. Memory use is one block (64 MB), or one snapshot where that is
        larger. For few, large snapshots, `columns` is as fast.

        Parameters
        ----------
        names : sequence of str
            The parameters to read; each row holds them one after the other.
        description, progress
            For the progress bar; see `Progress`.

        Yields
        ------
        block : ndarray of shape (snapshots, columns)
            In float64.

        Raises
        ------
        MissingSnapshotError
            If the file of a snapshot is missing or damaged.
        """
        ends = np.cumsum([0, *(self.structure[name].numel() for name in names)])
        count = max(1, _BLOCK // (8 * max(1, int(ends[-1]))))
        for start in track(range(0, len(self), count), description, "blocks", progress):
            steps = self._steps[start : start + count]
            block = np.empty((len(steps), int(ends[-1])))
            for row, step in zip(block, steps, strict=True):
                try:
                    holders = {name: self._holder(name, step) for name in names}
                    for holder in dict.fromkeys(holders.values()):
                        with safe_open(self._file(holder), framework="pt") as file:
                            for i, name in enumerate(names):
                                if holders[name] == holder:
                                    row[ends[i] : ends[i + 1]] = file.get_tensor(name).double().reshape(-1).numpy()
                except (OSError, SafetensorError, ValueError) as error:
                    raise self._lost(step, error) from error
            yield block

    def __repr__(self) -> str:
        entries = sum(tensor.numel() for tensor in self.structure.values())
        steps = f", steps {self._steps[0]:,} to {self._steps[-1]:,}" if self._steps else ""
        return f"Trajectory({self._header['model']}, {len(self):,} snapshots{steps}, {entries:,} parameters)"

    # ------------------------------------------------------------------ inside

    def _load(self) -> None:
        """Read the header, and list the snapshots."""
        self._header = read_header(self.path)
        self._steps = sorted(int(file.stem.removeprefix("step-")) for file in self.path.glob("step-*.safetensors"))

    def _file(self, step: int) -> Path:
        return self.path / f"step-{step:010d}.safetensors"

    def _holder(self, name: str, step: int) -> int:
        """Return the step whose file holds a tensor as it was after `step`: an earlier one if it was frozen then."""
        if step >= self._header["parameters"].get(name, {}).get("since", 0 if name in self.structure else math.inf):
            return step
        return max((earlier for earlier in self._header["kept"].get(name, ()) if earlier <= step), default=step)

    def _read(self, step: int, names: Sequence[str]) -> Params:
        """Read the file of a step, and the parameters among `names` that an earlier file holds."""
        try:
            # not by checkpoints.load, which searches the folder for shards: 20,000 names for each of 20,000 snapshots
            state = self._tensors(step)
            for name in names:
                if name not in state and (holder := self._holder(name, step)) != step:
                    with safe_open(self._file(holder), framework="pt") as file:
                        state[name] = file.get_tensor(name)
        except (CheckpointError, OSError, SafetensorError) as error:
            raise self._lost(step, error) from error
        if lacking := [name for name in names if name in self._header["held"] and name not in state]:
            raise self._lost(step, f'no snapshot up to it contains "{lacking[0]}", which was frozen')
        return {name: tensor.to(self._dtype_of(name) or tensor.dtype) for name, tensor in state.items()}

    def _tensors(self, step: int) -> Params:
        """Return all tensors of one file."""
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
            f"The snapshot of step {step} in {self.path} cannot be read: {why}. Its file was removed or damaged; "
            "delete the file and open the trajectory again."
        )

    def _dtype_of(self, name: str) -> torch.dtype | None:
        entry = self._header["parameters"].get(name) or self._header["held"].get(name)
        return None if entry is None else getattr(torch, entry["dtype"])

    def _marked(self, mark: str) -> NDArray[np.float64]:
        """Return a mark of every snapshot, from the metadata of its file."""
        for step in self._steps:
            if step not in self._known:
                try:
                    with safe_open(self._file(step), framework="pt") as file:
                        metadata = file.metadata() or {}
                except (OSError, SafetensorError) as error:
                    raise self._lost(step, error) from error
                self._known[step] = {key: float(value) for key, value in metadata.items() if key != "step"}
        return np.array([self._known[step].get(mark, math.nan) for step in self._steps], dtype=np.float64)


def _blocks(shapes: Mapping[str, Sequence[int]], entries: int) -> Iterator[list[BlockRows]]:
    """Cut tensors into whole rows, and join the rows into blocks of about `entries` entries."""
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
