"""All errors and warnings of lossnav, as one tree.

::

    LossnavError                      base class; `except ln.errors.LossnavError` catches all errors of lossnav
    ├── OptionError                   an option has an invalid value
    ├── StructureMismatchError        two points of weight space differ in names or shapes
    ├── DirectionError                a direction is zero, NaN or leads nowhere new
    ├── ChartError                    a chart does not support the request
    ├── SamplerError                  the requested points are invalid
    ├── ObjectiveError
    │   ├── DataError                 the data is empty, missing, or cannot be unpacked
    │   ├── LossShapeError            the loss (or a metric) returned a value of the wrong shape
    │   ├── NonFiniteCenterError      the loss at the centre is NaN or infinite
    │   ├── NotDeterministicError     two passes at one point give different values
    │   ├── ForkedInAPointError       a process was forked in the middle of a point
    │   └── DeviceError               the requested device does not exist
    ├── EvaluationError               every point failed
    ├── ClusterError                  a cluster cannot be reached, is too small, or its workers fail
    ├── CheckpointError
    │   ├── CheckpointMismatchError   the weights belong to another model
    │   └── UnsafeCheckpointError     the file is a pickle that would run code
    ├── StoreError
    │   ├── OutputExistsError         the output exists already
    │   ├── OutputNotWritableError    the output folder is not writable
    │   ├── PlanMismatchError         the store holds another run
    │   ├── StoreBusyError            another run is writing to the store
    │   ├── StoreTakenOverError       another run has taken over the store; nothing more is written
    │   ├── NotASurfaceError          the file is not a lossnav surface
    │   ├── MissingAttributeError     a store lacks a required attribute
    │   ├── NotATrajectoryError       the folder is not a recorded trajectory
    │   ├── NotASpectrumError         the folder is not a lossnav spectrum
    │   ├── MissingSnapshotError      a trajectory has no such snapshot, or its file is missing
    │   └── SchemaTooNewError         the store was written by a newer lossnav
    ├── SpecError                     a SPEC on the command line does not name an objective
    │   └── UntrustedCodeError        a store names code that the user has not approved
    ├── RequestError                  a message to the explorer cannot be parsed
    └── MissingExtraError             an optional package is not installed

    Interrupted (a KeyboardInterrupt) a run was stopped; the result so far is in `.partial`

    LossnavWarning                    base class of the warnings of lossnav
    ├── TrainModeWarning              the model was in train mode; says how it is evaluated
    ├── PlanFellBackWarning           a faster path failed its check; a slower one is used
    ├── PointsFailedWarning           some points raised an error; the others are stored
    ├── BatchDependenceWarning        the loss depends on the split into batches; gives both values
    ├── DamagedStoreWarning           a part of a store cannot be read; the rest is
    └── ComparisonWarning             compared surfaces measure different things

One sentence of a message says what is wrong, and one what to do.
"""

from __future__ import annotations

from typing import Any


class LossnavError(Exception):
    """Any error that lossnav raises on purpose."""


class OptionError(LossnavError, ValueError):
    """An option has an invalid value."""


class StructureMismatchError(LossnavError, ValueError):
    """Two points of weight space differ in names or shapes."""


class DirectionError(LossnavError, ValueError):
    """A direction is zero, not finite, or leads nowhere new."""


class ChartError(LossnavError, ValueError):
    """A chart does not support the request."""


class SamplerError(LossnavError, ValueError):
    """The requested points are invalid."""


class ObjectiveError(LossnavError):
    """An objective cannot be built or evaluated."""


class DataError(ObjectiveError, ValueError):
    """The data is empty, missing, or cannot be unpacked into inputs and targets."""


class LossShapeError(ObjectiveError, ValueError):
    """The loss (or a metric) returned a value of the wrong shape."""


class NonFiniteCenterError(ObjectiveError, ValueError):
    """The loss at the centre of the chart is NaN or infinite."""


class NotDeterministicError(ObjectiveError):
    """Two passes over the data at the same point give different values."""


class ForkedInAPointError(ObjectiveError):
    """A process was forked in the middle of a point, so its state is incomplete."""


class DeviceError(ObjectiveError):
    """The requested device does not exist."""


class EvaluationError(LossnavError):
    """Every point of a run raised an error."""


class ClusterError(LossnavError):
    """A cluster cannot be reached, is too small, or its workers fail."""


class CheckpointError(LossnavError):
    """A file of weights cannot be read."""


class CheckpointMismatchError(CheckpointError, ValueError):
    """The weights in a file belong to another model."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint is a pickle that would run code when opened."""


class StoreError(LossnavError):
    """A result cannot be written or read.

    Attributes
    ----------
    surface : xarray.Dataset or None
        The result computed before writing failed.
    """

    surface: Any = None


class OutputExistsError(StoreError, FileExistsError):
    """The output exists already."""


class OutputNotWritableError(StoreError, PermissionError):
    """The output folder is not writable."""


class PlanMismatchError(StoreError, ValueError):
    """A store holds the run of another objective, chart, sampler, precision or version."""


class StoreBusyError(StoreError):
    """Another run is writing to the store."""


class StoreTakenOverError(StoreError):
    """Another run has taken over the store of this run, which writes nothing more there."""


class NotASurfaceError(StoreError, ValueError):
    """A file or dataset is not a lossnav surface."""


class MissingAttributeError(StoreError, KeyError):
    """A store lacks a required attribute."""

    def __str__(self) -> str:
        return str(self.args[0])


class NotATrajectoryError(StoreError, ValueError):
    """A folder or dataset is not a lossnav trajectory."""


class NotASpectrumError(StoreError, ValueError):
    """A folder or dataset is not a lossnav spectrum."""


class MissingSnapshotError(StoreError, IndexError):
    """A trajectory has no such snapshot, or its file is missing or damaged."""


class SchemaTooNewError(StoreError, ValueError):
    """A store was written by a newer lossnav than this one."""


class SpecError(LossnavError, ValueError):
    """A SPEC on the command line does not name an objective."""


class UntrustedCodeError(SpecError):
    """A stored run names code as the origin of its objective, and the user has not approved running it.

    Parameters
    ----------
    message : str
    spec : str, optional
        The SPEC to give again, if that suffices.
    """

    def __init__(self, message: str, spec: str | None = None) -> None:
        super().__init__(message)
        self.spec = spec


class RequestError(LossnavError, ValueError):
    """A message on the explorer's socket is not valid JSON."""


class MissingExtraError(LossnavError, ImportError):
    """An optional package is not installed."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM; the result so far is in `partial`.

    Parameters
    ----------
    message : str

    Attributes
    ----------
    partial : xarray.Dataset, Report, Eigenpairs, ... or None
        The result so far, of the type that the call returns; `status` of a surface is 0 at points not evaluated.
    directions : tuple
        For a stopped `directions.random`: the complete ones.
    signal : int
        The number of the signal (2 for Ctrl-C, 15 for SIGTERM); exit codes are 128 + signal.
    """

    def __init__(self, message: str, partial: Any = None, signal: int = 2) -> None:
        super().__init__(message)
        self.partial = partial
        self.directions: tuple[Any, ...] = ()
        self.signal = signal


class LossnavWarning(UserWarning):
    """Any warning that lossnav gives on purpose."""


class TrainModeWarning(LossnavWarning):
    """The model was in train mode, and has layers that behave differently there."""


class PointsFailedWarning(LossnavWarning):
    """Some points raised an error and are stored as failed."""


class PlanFellBackWarning(LossnavWarning):
    """A faster path did not agree with the plain one and is not used."""


class BatchDependenceWarning(LossnavWarning):
    """The loss depends on how the data is split into batches."""


class DamagedStoreWarning(LossnavWarning):
    """A part of a store does not match its checksum, or is missing."""


class ComparisonWarning(LossnavWarning):
    """Surfaces on one scale measure different things."""
