"""Everything lossnav can complain about, as one tree.

::

    LossnavError                      what every error of ours is; `except ln.errors.LossnavError` catches all
    ├── OptionError                   an option has a value it cannot have
    ├── StructureMismatchError        two points of weight space differ in names or shapes
    ├── DirectionError                a direction is zero, NaN or leads nowhere new
    ├── ChartError                    a chart cannot do what was asked of it
    ├── SamplerError                  the points asked for make no grid
    ├── ObjectiveError
    │   ├── DataError                 the data is empty or of a shape we cannot unpack
    │   ├── LossShapeError            the loss did not return what it promised
    │   ├── NonFiniteCenterError      the loss at the centre is NaN or infinite
    │   ├── NotDeterministicError     two passes at one point disagree
    │   ├── ForkedInAPointError       a process was forked in the middle of a point
    │   └── DeviceError               the device asked for is not there
    ├── EvaluationError               every point failed
    ├── ClusterError                  a cluster cannot be reached, holds too little, or its workers cannot work
    ├── CheckpointError
    │   ├── CheckpointMismatchError   the weights belong to another model
    │   └── UnsafeCheckpointError     the file is a pickle that wants to run code
    ├── StoreError
    │   ├── OutputExistsError         something is there already
    │   ├── OutputNotWritableError    the folder cannot be written
    │   ├── PlanMismatchError         the store holds a run of something else
    │   ├── StoreBusyError            another run is writing there
    │   ├── StoreTakenOverError       another run has taken the store over; nothing more is written
    │   ├── NotASurfaceError          the file is no surface of ours
    │   ├── MissingAttributeError     a store does not say something of itself that is needed
    │   ├── NotATrajectoryError       the folder is no recorded trajectory of ours
    │   ├── NotASpectrumError         the folder holds no spectrum of ours
    │   ├── MissingSnapshotError      a trajectory has no such snapshot, or it is gone
    │   └── SchemaTooNewError         what was stored was written by a newer lossnav
    ├── SpecError                     a SPEC on the command line leads to no objective
    │   └── UntrustedCodeError        a store names code to run, and the user did not
    ├── RequestError                  a message to the explorer is none that can be read
    └── MissingExtraError             an optional package is not installed

    Interrupted (a KeyboardInterrupt) a run was stopped; what it computed is in `.partial`

    LossnavWarning                    what every warning of ours is
    ├── TrainModeWarning              the model was in train mode; says what is done about it
    ├── PlanFellBackWarning           a faster way did not prove itself; a slower one is used
    ├── PointsFailedWarning           some points raised; the rest is there
    ├── BatchDependenceWarning        the loss depends on how the data is cut into batches; names both values
    ├── DamagedStoreWarning           a part of a store cannot be read; the rest is there
    └── ComparisonWarning             surfaces that are compared measure different things

Each message says in one sentence what is wrong and in one what to do.
"""

from __future__ import annotations

from typing import Any


class LossnavError(Exception):
    """Any error that lossnav raises on purpose."""


class OptionError(LossnavError, ValueError):
    """An option has a value it cannot have."""


class StructureMismatchError(LossnavError, ValueError):
    """Two points of weight space differ in names or shapes."""


class DirectionError(LossnavError, ValueError):
    """A direction is zero, not finite, or leads nowhere new."""


class ChartError(LossnavError, ValueError):
    """A chart cannot do what was asked of it."""


class SamplerError(LossnavError, ValueError):
    """The points asked for make no grid."""


class ObjectiveError(LossnavError):
    """An objective cannot be built or evaluated."""


class DataError(ObjectiveError, ValueError):
    """The data is empty, missing, or of a shape we cannot unpack."""


class LossShapeError(ObjectiveError, ValueError):
    """The loss (or a metric) did not return what it promised."""


class NonFiniteCenterError(ObjectiveError, ValueError):
    """The loss at the centre of the chart is NaN or infinite."""


class NotDeterministicError(ObjectiveError):
    """Two passes over the data at the same point disagree."""


class ForkedInAPointError(ObjectiveError):
    """A process was forked in the middle of a point, and has half of what was under way."""


class DeviceError(ObjectiveError):
    """The device asked for is not there."""


class EvaluationError(LossnavError):
    """Every point of a run raised an error."""


class ClusterError(LossnavError):
    """A cluster cannot be reached, holds too little, or its workers cannot work."""


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
        What had been computed when writing failed, so that nothing is lost.
    """

    surface: Any = None


class OutputExistsError(StoreError, FileExistsError):
    """Something is already where the result should go."""


class OutputNotWritableError(StoreError, PermissionError):
    """The folder for the result cannot be written."""


class PlanMismatchError(StoreError, ValueError):
    """A store holds the run of another objective, chart, sampler, precision or version."""


class StoreBusyError(StoreError):
    """Another run is writing into a store."""


class StoreTakenOverError(StoreError):
    """Another run has taken over the store of this one, which writes nothing more there."""


class NotASurfaceError(StoreError, ValueError):
    """A file or dataset is not a surface of ours."""


class MissingAttributeError(StoreError, KeyError):
    """A store does not say something of itself that is needed."""

    def __str__(self) -> str:
        return str(self.args[0])


class NotATrajectoryError(StoreError, ValueError):
    """A folder or dataset is not a trajectory of ours."""


class NotASpectrumError(StoreError, ValueError):
    """A folder or dataset is not a spectrum of ours."""


class MissingSnapshotError(StoreError, IndexError):
    """A trajectory has no such snapshot, or its file is gone or damaged."""


class SchemaTooNewError(StoreError, ValueError):
    """What was stored was written by a newer lossnav than this one."""


class SpecError(LossnavError, ValueError):
    """A SPEC on the command line does not lead to an objective."""


class UntrustedCodeError(SpecError):
    """A stored run names code as the origin of its objective, and the user has not said that it may be run.

    Parameters
    ----------
    message : str
    spec : str, optional
        To give again, where that is all that is needed.
    """

    def __init__(self, message: str, spec: str | None = None) -> None:
        super().__init__(message)
        self.spec = spec


class RequestError(LossnavError, ValueError):
    """What came over the explorer's socket is no message of JSON."""


class MissingExtraError(LossnavError, ImportError):
    """An optional package is not installed."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM; what it computed is kept.

    Attributes
    ----------
    partial : xarray.Dataset, Report, Eigenpairs, ... or None
        The result as far as it was computed, of the type that the call returns; a surface's `status` is 0 where nothing
        was evaluated.
    directions : tuple
        Of a stopped `directions.random`: those that were whole.
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
    """The model was in train mode with layers that behave differently there."""


class PointsFailedWarning(LossnavWarning):
    """Some points raised an error and are stored as failed."""


class PlanFellBackWarning(LossnavWarning):
    """A faster way to compute did not agree with the plain one and is not used."""


class BatchDependenceWarning(LossnavWarning):
    """The loss depends on how the data is cut into batches."""


class DamagedStoreWarning(LossnavWarning):
    """A part of a store does not match its checksum, or is gone."""


class ComparisonWarning(LossnavWarning):
    """Surfaces that are drawn on one scale measure different things."""
