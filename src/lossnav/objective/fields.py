"""The attributes of an objective, and the one constructor that sets them.

`Objective(...)`, `Objective.from_function(...)` and every method that returns another objective (`subset`, `at`,
`moving`, ...) end in `ObjectiveFields.__init__`. A new attribute is written here and nowhere else: if it has no
default, both builders in `building.py` must give it a value, and copies carry it along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, cast

import torch

from lossnav.objective.batches import Batches
from lossnav.objective.counting import Counting
from lossnav.objective.forward import Forward
from lossnav.objective.functional import StepFunction
from lossnav.objective.loss import Loss
from lossnav.objective.metrics import Metric
from lossnav.objective.modes import Mode
from lossnav.objective.passes import Passes
from lossnav.objective.roles import Role
from lossnav.params import Params

_CACHED_FROM = {  # cached property: the fields that its value depends on
    "fingerprint": frozenset(
        ("name", "mode", "bn", "seed", "params", "batches", "_held", "_buffers", "_pass", "_measured_by")
    ),
    "_data": frozenset(("batches",)),
}


@dataclass(kw_only=True, eq=False, repr=False)
class ObjectiveFields:
    """What an objective is made of, and what is known about it. `Objective` documents the public fields.

    Attributes
    ----------
    batches : Batches or None
        The data; None for a function without data.
    samples : int or None
        Samples in the data; None before the first pass.
    population : int or None
        Samples in all the data, if this objective is a subset of it.
    _held : dict of str to Tensor
        Parameters that do not move.
    _everything : tuple of str
        Names of all parameters, in the order of the model.
    _trained : frozenset of str
        What ``params="trainable"`` stands for.
    _roles, _transposed : dict
        As `roles` and `transposed`, for all parameters.
    _also : tuple of str
        Parameters that move in addition to `moves`, because the ends of a chart differ in them.
    _weights : mapping or None
        The file that the weights were read from.
    _optional : frozenset of str
        Buffers that a checkpoint may lack.
    _layers : dict or None
        Counts of layers that the report reads; None for a bare function.
    _unread : list of str
        Buffers that are not used, because BatchNorm takes its statistics from the data.
    _pass : Passes
        How the model is called with weights that are not its own. Its step holds `forward=`, the loss, the metrics
        and `count=`.
    _measured_by : object
        The user's code that the fingerprint covers besides the loss and the metrics.
    _loss_parameters : int
        Trainable numbers of the loss; they do not move.
    _counts : bool
        Whether lossnav counts the samples of a batch itself (no `count=`).
    _of_batch : bool
        Whether BatchNorm layers use the statistics of each batch.
    _writes_weights : bool
        Whether a pass may write into the weights that it is given.
    _unplanned : str
        Why no fast plan is looked for; empty if one may be.
    _cut, _cut_samples, _metrics_cut
        What `batch_dependence` measured.
    _drawn : dict
        ``draws``: whether a pass draws random numbers, once this is known. Shared with copies.
    _plans, _verdicts : dict
        What engines and curvature remember about this objective. Shared with copies that have the same data and
        parameters.
    _keeps_samples : bool
        Whether values carry the per-sample losses.
    _of_all : mapping
        For a subset: loss and skewness over all the data at the centre.
    """

    name: str
    mode: Mode
    bn: str
    seed: int
    device: torch.device
    params: Params
    moves: str | list[str]
    roles: dict[str, Role]
    transposed: dict[str, int]
    batches: Batches | None
    samples: int | None = None
    population: int | None = None
    subset_seed: int | None = None
    origin: Mapping[str, Any] | None = None

    _held: Params
    _everything: tuple[str, ...]
    _trained: frozenset[str]
    _roles: dict[str, Role]
    _transposed: dict[str, int]
    _also: tuple[str, ...] = ()

    _buffers: Params
    _weights: Mapping[str, Any] | None = None
    _aliases: Mapping[str, str] = field(default_factory=dict)
    _optional: frozenset[str] = frozenset()
    _extra: Mapping[str, Any] = field(default_factory=dict)
    _adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _layers: dict[str, Any] | None
    _unread: list[str]

    _pass: Passes
    _measured_by: Any = None
    _loss_parameters: int
    _counts: bool
    _of_batch: bool
    _writes_weights: bool
    _unplanned: str

    _cut: dict[str, Any] | None = None
    _cut_samples: int = 0
    _metrics_cut: dict[str, dict[str, Any]] = field(default_factory=dict)
    _drawn: dict[str, bool] = field(default_factory=dict)
    _plans: dict[Any, Any] = field(default_factory=dict)
    _verdicts: dict[str, list[Any]] = field(default_factory=dict)
    _keeps_samples: bool = False
    _of_all: Mapping[str, float] = field(default_factory=dict)

    # ------------------------------------------------------------------ what the pass holds

    @property
    def _step(self) -> StepFunction:
        """What is done with one batch."""
        return self._pass.step

    @property
    def _forward(self) -> Forward:
        """``forward(model, batch) -> (outputs, targets)``; for a bare function the function itself."""
        return cast(Forward, cast(Any, self._step).args[0])

    @property
    def _loss(self) -> Loss:
        return cast(Loss, cast(Any, self._step).args[1])

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by name."""
        return cast(dict[str, Metric], cast(Any, self._step).args[2])

    @property
    def _count(self) -> Counting:
        return cast(Counting, cast(Any, self._step).args[3])

    # ------------------------------------------------------------------ copies

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Self:
        """Make an object from the values of all fields."""
        made = cls.__new__(cls)
        ObjectiveFields.__init__(made, **values)
        return made

    def _with(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; cached values that depend on them are dropped.

        Raises
        ------
        TypeError
            If a name is not a field.
        """
        values = {each.name: getattr(self, each.name) for each in fields(ObjectiveFields)}
        stale = {name for name, sources in _CACHED_FROM.items() if sources & changes.keys()}
        made = self._of(values | changes)
        vars(made).update({n: v for n, v in vars(self).items() if n not in values and n not in stale})
        return made

    def __copy__(self) -> Self:
        return self._with()

    def __getstate__(self) -> dict[str, Any]:
        """For pickling and deep copies: loss and metrics in the state that every pass starts from."""
        self._pass.begin()
        return dict(vars(self))
