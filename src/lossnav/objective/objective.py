"""What is being minimised: a model, a loss, data, metrics.

An objective is a pure function of weights: ``objective.evaluate(params) -> {"loss": ..., "accuracy": ...}``. It
takes a copy of the model's weights and buffers when it is made and never touches the model again, so training may
go on beside it (unless ``copy=False``).
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav._utils.moving import ALL, TRAINABLE, is_left_open, select_moving, trainable
from lossnav._utils.validation import described
from lossnav.checkpoints import weights
from lossnav.checkpoints.files import Stored
from lossnav.errors import (
    BatchDependenceWarning,
    CheckpointError,
    CheckpointMismatchError,
    DataError,
    LossnavWarning,
    OptionError,
    StructureMismatchError,
)
from lossnav.objective import batches as data_batches
from lossnav.objective import comparing, fingerprint
from lossnav.objective.batch_norm import BATCH_NORMS
from lossnav.objective.batches import DEFAULT_BUDGET, Batch, Batches
from lossnav.objective.counting import resolve_count
from lossnav.objective.cuts import Cut, Probe, uneven
from lossnav.objective.cuts import probes as few_samples
from lossnav.objective.diagnosis import explained
from lossnav.objective.forward import (
    Forward,
    _default_forward,
    _measure,
    _measure_function,
    _no_model,
    _of_same_names,
    _require_callable_with,
    _tensor_of,
)
from lossnav.objective.functional import StepFunction, StepValues
from lossnav.objective.layers import count_roles, describe_layers
from lossnav.objective.loss import Loss, name_of
from lossnav.objective.metrics import Metric, resolve_metrics
from lossnav.objective.modes import (
    Mode,
    _counters,
    _made_anew,
    _mode,
    _require_seed,
    _warn_in_train_mode,
    resolve_device,
)
from lossnav.objective.parameters import (
    _parameters_of_loss,
    _patterns,
    _require_floating,
    _some,
    require_initialised,
    require_weights,
)
from lossnav.objective.passes import FunctionPasses, Passes, make_passes
from lossnav.objective.predictions import NamedMetric, words_of
from lossnav.objective.proof import prove, prove_function
from lossnav.objective.readings import LossMisjudgedError
from lossnav.objective.reduction import Values, reduce_steps, sample_losses, single_terms, skewness
from lossnav.objective.repeats import Repeats
from lossnav.objective.roles import Role, by_use, describe_parameters, excluded, open_names, role_by_name
from lossnav.objective.truth import Case, few_of
from lossnav.params import Params
from lossnav.storage.samples import Measurement

_SUBSET_ERROR, _LEAST_SUBSET = 0.01, 100  # of an automatic subset: standard error relative to the loss; samples


_ALIKE = 1e-4  # relative: losses that differ by no more are of one draw, or of none
_OF_A_DRAW = 0.05  # of what another seed changes: so much the arithmetic may change beside


class Objective:
    """A loss over data as a pure function of a model's weights.

    Parameters
    ----------
    model : nn.Module
        Any module. It is not changed by anything lossnav does: a private copy of its structure, in eval mode, is
        called with our own copies of its weights and buffers. A model in train mode is evaluated in eval mode
        all the same, with a warning that says so (see `mode`). Every pass starts from the same state: buffers that the
        forward writes (a queue, a moving average) are handed from batch to batch within a pass, and begin anew with
        the next. The centre and one displaced point are held against a fresh copy of the model, on the first batch.
    loss : callable, str or None
        ``loss(outputs, targets)``, or one of "cross_entropy", "mse", "l1", "nll",
        "binary_cross_entropy_with_logits". A loss with a ``reduction`` argument (all of torch's) is asked for one
        value a sample, which gives `loss_se`, wherever their mean is the loss itself; class weights and ignored
        targets of torch's cross-entropy are reckoned over all the data, also where a function of your own or the model
        calls it. Any other mean is weighted by the number of samples in its batch. None: the model is given the whole
        batch and returns its loss, as a scalar or in ``outputs.loss``.
        Loss, metrics and `forward` are copied too, with the modules they hold or enclose, and called in eval mode;
        where they look at the model they look at our copy. Parameters of the loss hold still.
    data : (x, y) tensors or arrays, dict of tensors, Dataset, DataLoader, or iterable of batches
        Read once, kept on the device where it fits `data_budget`.
    metrics : sequence of str or callables, or dict of name to callable
        Besides the loss, fractions in [0, 1] by name: "accuracy", "error", "top5_accuracy"; of each position
        "token_accuracy", of each yes or no "element_accuracy"; "exact_match", where all of a sample is right. What a
        prediction is, and which positions count, follows from the loss. Or ``metric(outputs, targets)`` that returns a
        batch mean or one value a sample.
    params : "trainable", "all", glob pattern, or a sequence of these
        Which parameters may move; the others are held at their values. By default those that the user trains
        (``requires_grad``), and all of a model of which nothing is trained. ``"all"`` moves what is frozen too; a
        pattern over names moves what it matches, frozen or not.
    reduction : "auto", "mean", "none" or "batch"
        What the loss returns: the mean of the batch, or one value a sample. "auto" finds out for losses with a
        ``reduction`` argument and takes any other for a mean. "batch": a value that belongs to the batch as it came,
        as that of a contrastive loss does; the mean over batches is weighted by their numbers of samples.
    forward : callable, optional
        ``forward(model, batch) -> (outputs, targets)``, for batches that do not unpack. By default a batch
        ``(x, y)`` calls ``model(x)``; ``(a, b, …, y)`` calls ``model(a, b, …)``; a dict calls ``model(**batch)``
        without its ``labels`` (or ``label``, ``targets``, ``target``, ``y``) and uses ``outputs.logits`` where
        there are some.
    mode : "eval" or "train", optional
        "eval" by default. "train": model, loss and metrics are called as ``model.train()`` leaves them, for losses
        that exist only there, or for the loss that training lowers. Dropout and whatever else is drawn take the same
        numbers, those of `seed`, at every point: the surface is that of one draw, and smooth. Nothing that is written
        there (running statistics) reaches your model or another point. Such an objective is evaluated plainly.
    bn : "frozen", "recompute" or "batch", optional
        BatchNorm at a displaced point: running statistics of the centre (the default); statistics made anew from the
        data at every point (one more pass, every batch counting the same); or each batch's own, the default in train
        mode. There "frozen" keeps BatchNorm alone in eval mode; "recompute" is refused.
    device : str or torch.device, optional
        By default where the model is.
    batch_size : int, optional
        For tensors and Datasets. Default 50 on the CPU, 1,024 elsewhere.
    data_budget : int
        Bytes of data to keep on the device (default 4 GiB); larger data is read anew at every point.
    subset : int or "auto", optional
        Only so many samples of the data, drawn once by the seed and the same at every point; see `subset`.
    seed : int
        A model that draws random numbers draws the same ones at every point. Also of the subset.
    progress : bool or None
        Whether to show a bar while the data is loaded (None: on a terminal).
    count : callable, "samples" or "targets", optional
        How many samples a batch holds: `samples` in the report, and the weight of a loss that returns a mean. By
        default what the model is given is counted (graphs, sequences, entries of a list, rows). ``count(batch) -> int``
        is your own way; "targets" counts the rows of the targets.
    copy : bool
        False: look at the model's own weights instead of copying them, for a model too large to be held twice. They
        are never written to, but you promise not to train it, load into it or move it while the objective or a chart
        around it is in use; the centre would move along. Weights on another device than `device` are copied there.

    Attributes
    ----------
    params : dict of str to Tensor
        The centre: a copy of the parameters that may move, or with ``copy=False`` the model's own.
    moves : str or list of str
        What was passed as `params`.
    roles : dict of str to {"weight", "bias", "norm"}
        What each parameter that moves is; "norm" is any parameter of a normalisation layer.
    transposed : dict of str to int
        Weights whose filters run along the second axis, with their number of groups.
    origin : mapping or None
        The SPEC it was built from (see `load_objective`), so that another process can build it too.

    Raises
    ------
    DataError
        If the data is empty or a batch does not unpack.
    LossShapeError
        If the loss returns a vector without saying so, or a scalar where one value a sample was promised.
    OptionError
        If an option has an unknown value or no parameter matches `params`.
    ObjectiveError
        If the model cannot be called with other weights: one is reached through a global, say.
    DeviceError
        If the device is not there.

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.requires_grad_(False).weight.fill_(2.0)
    >>> objective = Objective(model, "mse", (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)))
    >>> objective.evaluate(objective.params)
    {'loss': 20.0, 'loss_se': 16.0}
    """

    params: Params
    moves: str | list[str]
    roles: dict[str, Role]
    transposed: dict[str, int]
    origin: Mapping[str, Any] | None
    _cut: dict[str, Any] | None
    _metrics_cut: dict[str, dict[str, Any]]
    _also: tuple[str, ...] = ()  # what a chart leads along though it is held by the rule
    _weights: Mapping[str, Any] | None = None  # the file that they were read from
    _keeps_samples = False
    _extra: Mapping[str, Any] = {}
    _adapters: Mapping[str, Mapping[str, Any]] = {}
    _of_all: Mapping[str, float] = {}  # of a subset: loss and skewness over all the data at the centre

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any] | str | None,
        data: Any,
        *,
        metrics: Sequence[str | Metric] | Mapping[str, Metric] = (),
        params: str | Sequence[str] = TRAINABLE,
        reduction: Literal["auto", "mean", "none", "batch"] = "auto",
        forward: Forward | None = None,
        mode: Mode | None = None,
        bn: Literal["frozen", "recompute", "batch"] | None = None,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        data_budget: int = DEFAULT_BUDGET,
        subset: int | Literal["auto"] | None = None,
        seed: int = 0,
        progress: bool | None = None,
        copy: bool = True,
        count: Callable[[Batch], int] | Literal["samples", "targets"] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise _no_model(model, loss)
        self.mode, self.bn = _mode(mode, bn)
        _require_seed(seed)
        require_initialised(model)
        _require_floating(model)
        if self.mode == "eval":
            _warn_in_train_mode(model, self.bn)
        self.name = type(model).__name__
        self.seed = seed
        self.device = resolve_device(device, model)
        self.metrics = resolve_metrics(metrics)
        self._loss = Loss(loss, reduction)
        self._loss.read(count is None, any(isinstance(metric, NamedMetric) for metric in self.metrics.values()))
        self._forward = forward or partial(_default_forward, loss is None)
        self._count = resolve_count(count)

        everything = dict(model.named_parameters())
        self._trained = trainable(everything)
        params = _patterns(params, model)
        moving = select_moving(everything, params, self._trained)
        taken = algebra.copy(everything, self.device) if copy else algebra.detach(everything, self.device)
        self._everything = tuple(taken)
        self._roles, self._transposed = describe_parameters(model, everything)
        self._take(moving, taken)
        self.moves = params if isinstance(params, str) else list(params)
        self._aliases, self._extra = weights.aliases_of(model), weights.extra_of(model.state_dict())
        anew = _made_anew(model, self.bn)
        self._optional = weights.optional_buffers(model) | anew
        self._adapters = weights.adapters_of(model)
        self._buffers = algebra.copy(dict(model.named_buffers()), self.device)
        self._layers: dict[str, Any] | None = describe_layers(model, self.roles)
        self._unread = [name for name in self._buffers if name in anew | _counters(anew)]
        self._writes_weights, self._unplanned = False, ""
        self._of_batch = self.bn == "batch" and any(isinstance(module, BATCH_NORMS) for module in model.modules())
        self._counts, self._cut, self._cut_samples, self._metrics_cut = count is None, None, 0, {}
        step: StepFunction = partial(_measure, self._forward, self._loss, self.metrics, self._count)
        self._loss_parameters = _parameters_of_loss(self._loss, model)
        self._adopt(make_passes(model, step, self.bn, self.device, self.mode == "train"))

        with random_state.preserved(seed, self.device):
            self.batches: Batches | None = Batches(
                data,
                device=self.device,
                batch_size=batch_size,
                budget=data_budget,
                float_dtype=next(tensor.dtype for tensor in taken.values() if tensor.is_floating_point()),
                progress=progress,
                seed=seed,
            )
        self.samples: int | None = None
        self._drawn: dict[str, bool] = {}  # whether a pass draws random numbers, once it is known; copies share it
        self._plans: dict[Any, Any] = {}  # what engines found fastest, by what they were asked
        self._verdicts: dict[str, list[Any]] = {}  # on its derivatives, by the kind of matrix
        self.population: int | None = None  # samples that this is a subset of
        self.subset_seed: int | None = None
        self.origin = None
        self._prove(model, step, copy)
        own = self._forward if forward else None
        self._measured_by: Any = (own, getattr(type(model), "forward", None), repr(model))  # for the fingerprint
        self._measured_by += () if count is None else (count,)
        self._hold_cuts()
        self._hold_metrics()
        if loss is None or forward is not None:
            self._hold_scores()
        self._see_what_is_drawn()
        if subset is not None:
            self.__dict__.update(self.subset(subset, seed).__dict__)

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        params: Mapping[str, Tensor],
        data: Any = None,
        *,
        metrics: Mapping[str, Callable[..., Any]] | None = None,
        reduction: Literal["mean", "none"] = "mean",
        name: str | None = None,
        batch_size: int | None = None,
        data_budget: int = DEFAULT_BUDGET,
        seed: int = 0,
        count: Callable[[Batch], int] | None = None,
    ) -> Objective:
        """Make an objective of a bare function, with no module at all.

        Parameters
        ----------
        function : callable
            ``function(params)``, or ``function(params, batch)`` where there is data; returns a scalar, or with
            ``reduction="none"`` one value a sample.
        params : mapping of str to Tensor
            The centre; copied.
        data : optional
            As in `Objective`; the function is called once a batch and batches are weighted by their length.
        metrics : mapping of str to callables, optional
            Called as the function is.
        reduction : "mean" or "none"
        name : str, optional
            For the stored surface; by default the function's name.
        count : callable, optional
            ``count(batch) -> int``, the samples in a batch and its weight in the mean; as in `Objective`.

        Examples
        --------
        >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
        >>> bowl.evaluate({"x": torch.tensor([3.0, 4.0])})
        {'loss': 25.0}
        """
        if isinstance(function, nn.Module):
            raise OptionError(
                f"The function is {described(function)}. Pass ln.Objective(model, loss, data), or a function of "
                "parameters: lambda params, batch: loss(torch.func.functional_call(model, params, batch[0]), batch[1])."
            )
        if not isinstance(params, Mapping):
            raise OptionError(
                f"The parameters are {described(params)}, not a dict of name to tensor. Pass "
                'dict(model.named_parameters()), or {"x": torch.zeros(2)}.'
            )
        if not params:
            raise OptionError("There are no parameters. Pass a dict of name to tensor.")
        _require_callable_with(function, has_data=data is not None)
        tensors = {param_name: _tensor_of(param_name, value) for param_name, value in params.items()}
        for param_name, tensor in tensors.items():
            if not tensor.is_floating_point():
                raise OptionError(
                    f'"{param_name}" is {tensor.dtype}, which cannot move by small steps. Pass floating-point tensors.'
                )
        self = cls.__new__(cls)
        self.name = name or name_of(function)
        self.mode, self.bn, self.seed, self._of_batch = "eval", "frozen", seed, False
        self._roles = {name: role_by_name(name) for name in tensors}
        self._transposed, self._everything = {}, tuple(tensors)
        self._take(tensors, algebra.copy(tensors))
        self._trained, self.moves = frozenset(tensors), ALL
        self._writes_weights, self._unplanned = True, "a bare function"  # it may write into what it is given
        self._loss_parameters = 0
        self.device = next(iter(self.params.values())).device
        self.metrics = resolve_metrics(metrics or {})
        self._buffers, self._aliases, self._optional = {}, {}, frozenset()
        self._layers, self._unread = None, []
        self._loss = Loss(None, reduction)
        self._loss.name = self.name
        self._loss.read(data is not None and count is None, predicts=False)
        if named := [name for name, metric in self.metrics.items() if isinstance(metric, NamedMetric)]:
            raise OptionError(
                f"metric {named[0]!r} needs outputs and targets, which a bare function does not show. Pass a function "
                "that is called as yours is."
            )
        self._count, self._counts, self._cut = resolve_count(count), count is None, None
        self._metrics_cut, self._cut_samples = {}, 0
        self.samples = self.population = self.subset_seed = self.origin = None
        self._plans, self._verdicts, self._drawn = {}, {}, {}
        self.batches = None
        if data is not None:
            with random_state.preserved(seed, self.device):
                self.batches = Batches(data, device=self.device, batch_size=batch_size, budget=data_budget, seed=seed)
            self.batches.written_to = True  # as far as anybody knows
        has_data = data is not None
        step: StepFunction = partial(_measure_function, function, self._loss, self.metrics, self._count, has_data)
        self._adopt(FunctionPasses(step).apart())
        first = None if self.batches is None else self._first_batch()
        how = ("frozen", self.device, seed, True)
        prove_function(Case(nn.Module(), step, self._pass, self.params, {}, {}, first, *how, writes=True), self.name)
        self._measured_by = self._forward if count is None else (self._forward, self._count)
        self._hold_cuts()
        self._hold_metrics()
        self._see_what_is_drawn()
        return self

    # ------------------------------------------------------------------ evaluating

    def evaluate(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None) -> Values:
        """Evaluate loss and metrics at a point of weight space, over all the data.

        Parameters
        ----------
        params : mapping of str to Tensor
            Names and shapes of `self.params`. Other dtypes are converted. Parameters that are held may be there too:
            then they are as the point has them.
        buffers : mapping of str to Tensor, optional
            Of the model there: all or some of them. By default those that the point carries (``chart(coords)`` of a
            chart through checkpoints does), and else those of the centre.

        Returns
        -------
        dict of str to float
            ``loss``: mean over the samples, accumulated in float64. ``loss_se``: standard error of that mean,
            s / sqrt(n) with s the sample standard deviation over the data; only where the loss of single samples
            can be had, nan for a single one. Then every metric. Values that overflow are inf or nan.

        Raises
        ------
        StructureMismatchError
            If names or shapes differ.
        """
        values, self.samples = self._reduce(self._steps(params, buffers))
        return values

    def _steps(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None) -> list[StepValues]:
        """What every batch gives at a point, before it is joined."""
        require_weights(params, "the point")
        beside = {name: tensor for name, tensor in params.items() if name in self._held}  # of all of the model
        self.require_same_structure({n: t for n, t in params.items() if n not in beside}, "the point")
        belonging = self.buffers_at(params, buffers)
        point = {name: params[name].detach().to(c.device, c.dtype) for name, c in self.params.items()} | self._held
        if beside:
            point |= self._cast(beside, self._held, "the point")
        if self._writes_weights:
            point = algebra.copy(point)
        misjudged: list[Batch] = []
        kept: list[list[StepValues]] = []
        while True:
            try:
                with random_state.preserved(self.seed, self.device), torch.no_grad():
                    if self.batches is None and "draws" not in self._drawn:  # a loader would draw some of its own
                        self._drawn["draws"] = random_state.draws(
                            lambda: kept.append(self._pass(point, belonging, None))
                        )
                        steps = kept.pop()
                    else:
                        steps = self._pass(point, belonging, self.batches)
            except LossMisjudgedError as error:  # each time the loss is taken for less, or differentiates
                misjudged.append(error.batch)
                continue
            except Exception as error:
                if (said := explained(error)) is error:
                    raise
                raise said from error
            self._loss.settle()
            if misjudged:
                self._hold_cuts(misjudged[-1])
            return steps

    def keeping_samples(self) -> Objective:
        """Return the same objective, whose values have the losses of single samples beside them."""
        other = copy.copy(self)
        other._keeps_samples = True
        return other

    def buffers_at(self, point: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None) -> Params:
        """Return all buffers of the model at a point: those given, else those the point carries, else the centre's.

        Raises
        ------
        StructureMismatchError
            If the model has no such buffer, or has it in another shape.
        """
        given = getattr(point, "buffers", None) if buffers is None else buffers
        if not given:
            return self._buffers
        return self._buffers | self._cast(given, self._buffers, "the buffers")

    def _cast(self, tensors: Mapping[str, Tensor], like: Params, what: str) -> Params:
        """Some tensors on the device and in the dtype of those of their names."""
        if difference := algebra.first_difference(tensors, {n: t for n, t in like.items() if n in tensors}):
            raise StructureMismatchError(
                f"{what} and those of {self.name} differ at {difference}. Take them from a model of the same "
                "architecture."
            )
        return {name: tensor.detach().to(like[name].device, like[name].dtype) for name, tensor in tensors.items()}

    def _reduce(self, steps: list[StepValues]) -> tuple[Values, int | None]:
        """Join batches; of a subset the standard error is that of the mean over all the data."""
        values, count = reduce_steps(steps, has_samples=self.batches is not None)
        if self.population and count and "loss_se" in values:  # Cochran 1977, eq. 2.20: drawn without replacement
            values["loss_se"] *= math.sqrt(max(0.0, 1 - count / self.population))
        terms = single_terms(steps) if self.batches is not None else None
        if terms is None:
            return values, count
        made = Measurement(values)
        made.skewness = skewness(*terms)
        if self._keeps_samples:
            made.samples = sample_losses(*terms)
        return made, count

    def subset(self, n: int | Literal["auto"] = "auto", seed: int = 0) -> Objective:
        """Return the same objective on a random part of the data, the same part at every point.

        The loss is then an estimate of the loss over all the data, and ``loss_se`` its standard error: s / sqrt(n)
        times sqrt(1 - n / N), the samples being drawn without replacement (Cochran 1977, eq. 2.20). Differences
        between points are surer than that, since the samples are the same (common random numbers).

        Parameters
        ----------
        n : int or "auto"
            How many samples. "auto": as many as make the standard error at the centre 1 % of the loss, and no fewer
            than 100; that takes one pass over all the data.
        seed : int

        Raises
        ------
        OptionError
            If n is below 2 or beyond the data, or "auto" has no losses of single samples to go by.
        DataError
            If the data does not consist of tensors with one row a sample.

        Examples
        --------
        >>> x = torch.arange(8.0).reshape(-1, 1)
        >>> objective = Objective(nn.Linear(1, 1), "mse", (x, x))
        >>> objective.subset(4, seed=1).describe()["population"]
        8
        """
        if self.batches is None:
            raise OptionError("This objective has no data to draw a subset of. Leave out subset=.")
        if self.population is not None:
            raise OptionError("This objective is a subset already. Draw from the one with all the data.")
        values = self.evaluate(self.params)
        total = self.samples or 0
        count = self._enough(values, total) if isinstance(n, str) and n == "auto" else n
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 2 <= count <= total:
            raise OptionError(f"subset={n} of {total} samples is none. Pass a number from 2 to {total}, or 'auto'.")
        drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
        other = copy.copy(self)
        for cached in ("fingerprint", "data_fingerprint", "_data"):
            other.__dict__.pop(cached, None)
        other._of_all = {}
        if isinstance(values, Measurement) and values.skewness is not None:  # of what a part may have missed
            other._of_all = {"loss": values["loss"], "skewness": values.skewness}
        with random_state.preserved(self.seed, self.device):
            other.batches = self.batches.take(drawn.tolist())
        other.population, other.subset_seed, other.samples, other._plans = total, seed, count, {}
        other._warn_of_company()
        return other

    def _warn_of_company(self) -> None:
        """Warn where a value of a sample depends on the others in its batch, which in a subset are others."""
        joined, samples = comparing.join(self.batches) if self.batches is not None else (None, 0)
        if joined is None or self.bn != "frozen":  # what a batch has of its own is asked for
            return
        found = comparing.depends_on_batches(self, joined, samples, [self.params])
        if found and not random_state.draws(
            lambda: self._steps(self.params), self.device
        ):  # else it is not the company
            warnings.warn(
                f"Here {' and '.join(found)} of a sample depend on the others in its batch, and a subset is cut into "
                "other batches: its values are no estimate of those over all the data. Leave out subset=, or pass as "
                "data the whole batches that you choose.",
                LossnavWarning,
                stacklevel=3,
            )

    @staticmethod
    def _enough(values: Values, total: int) -> int:
        """How many samples make the standard error small enough at a point with these values over all the data."""
        if "loss_se" not in values:
            raise OptionError("subset='auto' needs the losses of single samples, which this loss hides. Pass a number.")
        variance, allowed = values["loss_se"] ** 2 * total, (_SUBSET_ERROR * values["loss"]) ** 2
        enough = variance / (allowed + variance / total) if allowed + variance > 0 else total
        return min(total, max(_LEAST_SUBSET, math.ceil(enough) if math.isfinite(enough) else total))

    def at(
        self,
        state: Mapping[str, Tensor] | nn.Module | str | os.PathLike[str],
        missing: weights.Missing = "refuse",
    ) -> Objective:
        """Return the same objective centred at other weights, such as a checkpoint's.

        Parameters
        ----------
        state : mapping of str to Tensor, nn.Module or path
            A state dict, a module, or a file of a state dict: every parameter that moves and every buffer, and if it
            has them the held parameters. Buffers that a model saves in no file (``persistent=False``) and the counter
            ``num_batches_tracked`` may be missing, and with a `bn` other than "frozen" the statistics of BatchNorm.
        missing : "refuse" or "keep"
            What is done where others are missing: ``keep`` takes those that the objective has, with a warning that
            names them.

        Raises
        ------
        CheckpointMismatchError
            If a parameter that moves or a buffer is missing, has another shape, or a name is unknown.

        Examples
        --------
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).eval()
        >>> objective = Objective(model, "mse", (torch.zeros(2, 1), torch.zeros(2, 1)))
        >>> later = objective.at(model.state_dict() | {"1.running_mean": torch.tensor([3.0])})
        """
        if isinstance(state, nn.Module):
            there = self.at(state.state_dict(), missing)
            there.require_same_function(state)
            return there
        given: Mapping[str, Any]
        if not isinstance(state, str | os.PathLike | Mapping):
            raise CheckpointError(
                f"at() takes a module, a state dict or the path of a checkpoint, not {type(state).__name__}. Pass one "
                "of them: objective.at(model), objective.at('weights.pt')."
            )
        if isinstance(state, str | os.PathLike):
            given, source = weights.stored(state), f"The checkpoint {os.fspath(state)}"
        else:
            given, source = dict(state) | dict(getattr(state, "buffers", {})), "The state dict"
        anatomy = self.anatomy
        found = anatomy.match(given)
        params, held, buffers = anatomy.split(found.tensors)
        if name := anatomy.other_extra(found.extra):
            raise CheckpointMismatchError(
                f'{source} has another "{name}" (get_extra_state) than the model of the objective, which stays as it '
                "is. Load the state into the model and make an objective of that."
            )
        if getattr(given, "adapter", None) is None:  # which has none
            weights.require_complete(anatomy.missing(buffers), missing, source, self.name)
        there = self._with(params, self._held | held, self._buffers | buffers)
        if isinstance(given, Stored):
            saved = [n for n in self._buffers if n not in self._optional or n.endswith(weights.COUNTER)]
            kept = [name for name in self._held if name not in held and name not in self._aliases]
            kept += [name for name in saved if name not in buffers]
            there._weights = {"file": given.source, "place": found.place, "kept": kept}
        return there

    @property
    def anatomy(self) -> weights.Anatomy:
        """What each tensor of the model is: moved, held, a buffer, and which a checkpoint may lack."""
        parts = (self.params, self._held, self._buffers)
        free, also = is_left_open(self.moves), frozenset(self._also)
        return weights.Anatomy(
            self.name, *parts, self._optional, self._aliases, self._extra, self._adapters, free, also
        )

    def moving(self, params: str | Sequence[str]) -> Objective:
        """Return the same objective of which other parameters move: as if it had been made with this `params`.

        Raises
        ------
        OptionError
            If none of the model matches.

        Examples
        --------
        >>> model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
        >>> objective = Objective(model, "mse", (torch.ones(1, 2), torch.ones(1, 1)))
        >>> list(objective.params), list(objective.moving("0.*").params)
        (['1.weight', '1.bias'], ['0.weight', '0.bias'])
        """
        made = self._moving(select_moving(self.params | self._held, params, self._trained))
        made.moves, made._also, made.origin = params if isinstance(params, str) else list(params), (), None
        return made

    def of_what_moves(self, params: str | Sequence[str]) -> list[str]:
        """Names of the parameters that `params` stands for (as in `Objective`), of those that move; ``"*"`` is all.

        Raises
        ------
        OptionError
            If it is "all" and some are held still, or a pattern that matches only such.
        """
        names: set[str] = set()
        for word in algebra.listed(params):
            pattern = "*" if word == ALL else word
            matching = self._trained if word == TRAINABLE else algebra.select(self._everything, pattern)
            moving = [name for name in matching if name in self.params]
            held = [name for name in matching if name in self._held and self._held[name].is_floating_point()]
            if held and (word == ALL or not moving):
                raise OptionError(
                    f'params={params!r} names "{held[0]}", which the objective holds still. Use '
                    f"objective.moving({params!r}), or make it with Objective(..., params={params!r})."
                )
            names |= set(moving)
        return [name for name in self.params if name in names]

    def moving_also(self, names: Collection[str]) -> Objective:
        """Return the same objective of which these move too, which the rule alone holds still.

        Raises
        ------
        OptionError
            If `params` said what moves, and not the rule.
        """
        more = tuple(name for name in self._everything if name in names and name not in self.params)
        if not more:
            return self
        if not is_left_open(self.moves):
            raise OptionError(f'params={self.moves!r} holds "{more[0]}" still. Let all of them move: params="all".')
        made = self._moving([*self.params, *more])
        made._also = (*self._also, *more)
        return made

    def moving_only(self, names: Collection[str]) -> Objective:
        """Return the same objective of which only these move, of those that do; the rest is held where it is."""
        return self._moving([name for name in self.params if name in names])

    def moving_as(self, description: Mapping[str, Any]) -> Objective:
        """Return the same objective that moves what one of this `describe` did.

        One from before what is frozen held still says nothing of what moves: there all did.
        """
        moves = description.get("moves")
        if moves is not None:
            return self.moving_also(moves.get("also", ())) if is_left_open(self.moves) else self
        if is_left_open(self.moves) and not description.get("parameters_held", 1) and self._held:
            return self._moving([*self.params, *(n for n, t in self._held.items() if t.is_floating_point())])
        return self

    def _moving(self, names: Collection[str]) -> Objective:
        other = copy.copy(self)
        other.__dict__.pop("fingerprint", None)
        tensors = self.params | self._held
        other._take(names, {name: tensors[name] for name in self._everything})
        other._plans, other._verdicts = {}, {}
        if other._layers is not None:
            other._layers = other._layers | count_roles(other.roles, other.params)
        return other

    def _take(self, names: Collection[str], tensors: Params) -> None:
        """Tell what moves from what is held."""
        self.params = {name: tensor for name, tensor in tensors.items() if name in names}
        self._held = {name: tensor for name, tensor in tensors.items() if name not in names}
        self.roles = {name: self._roles[name] for name in self.params}
        self.transposed = {name: groups for name, groups in self._transposed.items() if name in self.params}

    def around(self, point: Mapping[str, Tensor]) -> Objective:
        """Return the same objective centred at a point of its own weight space, such as ``chart(coords)``.

        Buffers that the point does not carry stay as they are. For what was saved or trained apart use `at`.

        Raises
        ------
        StructureMismatchError
            If names or shapes differ.

        Examples
        --------
        >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
        >>> bowl.around({"x": torch.zeros(2)}).params
        {'x': tensor([0., 0.])}
        """
        self.require_same_structure(point, "the point")
        params = self._cast({name: point[name] for name in self.params}, self.params, "the point")
        return self._with(params, self._held, self.buffers_at(point))

    def _with(self, params: Params, held: Params, buffers: Params) -> Objective:
        """The same objective with copies of these tensors."""
        other = copy.copy(self)
        other.__dict__.pop("fingerprint", None)  # the data is the same
        other.origin = other._weights = None
        other._of_all = {}
        other.params, other._held, other._buffers = (algebra.copy(part) for part in (params, held, buffers))
        return other

    def double(self) -> Objective:
        """Return the same objective with model, weights, data and loss in float64; its fingerprint is another.

        Class weights of torch's own losses follow. What a loss or a model of the user's own keeps elsewhere (in a
        closure, say) does not, and torch says so when it is evaluated.

        Examples
        --------
        >>> objective = Objective(nn.Linear(1, 1), "mse", (torch.ones(2, 1), torch.ones(2, 1)))
        >>> objective.double().params["weight"].dtype
        torch.float64
        """
        other = copy.copy(self)
        other._adopt(self._pass.apart(double=True))
        if not isinstance(other._loss.function, nn.Module):  # a module has been turned already
            other = other._measuring(other._loss.double(), other.metrics)
        for cached in ("fingerprint", "data_fingerprint", "_data"):
            other.__dict__.pop(cached, None)
        for part in ("params", "_held", "_buffers"):
            tensors = {name: data_batches.to_double(tensor) for name, tensor in getattr(self, part).items()}
            setattr(other, part, tensors)
        other.batches = None if self.batches is None else self.batches.double()
        other._plans, other.origin = {}, None
        return other

    def draws_as(self, exact: Objective, loss_of: Callable[[Objective], float] | None = None) -> bool:
        """Whether this objective draws the random numbers that it draws in float64; also where it draws none.

        Dropout does. `torch.randn` in a forward pass (of a VAE, say) draws others from the same seed, so that the two
        objectives are two losses, and their difference is no error of the arithmetic. `loss_of` says how an objective's
        loss is found, by default at its centre.

        Examples
        --------
        >>> noisy = Objective.from_function(lambda p: (p["x"] + torch.randn_like(p["x"])).sum(), {"x": torch.ones(99)})
        >>> noisy.draws_as(noisy.double())
        False
        """
        loss_of = loss_of or (lambda objective: objective.evaluate(objective.params)["loss"])
        loss, wide = loss_of(self), loss_of(exact)
        if not math.isfinite(loss) or abs(loss - wide) <= _ALIKE * abs(loss):
            return True
        again = copy.copy(self)
        again.seed = self.seed + 1
        other = loss_of(again)
        return other == loss or abs(loss - wide) <= _OF_A_DRAW * abs(loss - other)

    def apart(self) -> Objective:
        """Return the same objective for another thread: both may be evaluated at the same time.

        Weights and data are shared, and only read. A bare function of the user's is called from both.
        """
        other = copy.copy(self)
        other._adopt(self._pass.apart())
        return other

    def without_metrics(self) -> Objective:
        """Return the same objective that measures the loss alone."""
        return self._measuring(self._loss, {})

    def _adopt(self, passes: Passes) -> None:
        """Call the model this way, and what is measured with it as it is there."""
        self._pass, self._step = passes, passes.step
        self._forward, self._loss, self.metrics, self._count = cast(Any, passes.step).args[:4]

    def _measuring(self, loss: Loss, metrics: dict[str, Metric]) -> Objective:
        other, step = copy.copy(self), cast(Any, self._pass.step)
        arguments = [loss if part is self._loss else metrics if part is self.metrics else part for part in step.args]
        other._loss, other.metrics, other._step = loss, metrics, partial(step.func, *arguments)
        other._pass = self._pass.measuring(other._step)
        return other

    def excluded(self, exclude: Sequence[str]) -> set[str]:
        """Names of the moving parameters with a role ("bias", "norm") or a name (glob patterns) that is left out.

        Raises
        ------
        OptionError
            If a pattern matches nothing.
        """
        return excluded(self.params, self.roles, exclude)

    def require_same_function(self, other: Objective | nn.Module) -> None:
        """Raise StructureMismatchError where another network is not this one at other weights.

        Weights of the same names and shapes may belong to another activation, another `eps`, another order of layers. A
        few samples are passed through both, with the weights of this objective.
        """
        if isinstance(self._pass, FunctionPasses) or self.batches is None:
            return
        with random_state.preserved(self.seed, self.device):
            part = few_of(self.batches.peek())
        params, model = self.params | self._held, other._pass if isinstance(other, Objective) else other
        if isinstance(model, nn.Module):
            if (alike := _of_same_names(model, params)) is None:
                return
            passes = make_passes(alike, self._step, self.bn, self.device, self.mode == "train")
        elif model is self._pass or isinstance(model, FunctionPasses) or other.device != self.device:
            return
        else:
            passes = model.apart().measuring(self._step)
        found: list[float] = []
        for each in (self._pass, passes):
            given = algebra.copy(params) if self._writes_weights else params
            with random_state.preserved(self.seed, self.device), torch.no_grad():
                steps = each(given, self._buffers, [data_batches.move(part, self.device)])
            found.append(reduce_steps(steps, has_samples=True)[0]["loss"])
        here, there = found
        if not (math.isfinite(here) and abs(there - here) > 0.1 * self._rounding * abs(here)):
            return
        name = other.name if isinstance(other, Objective) else type(other).__name__
        raise StructureMismatchError(
            f"{name} is another function than the network of the objective, {self.name}: with the same weights a few "
            f"samples have a loss of {there:.7g} in it and of {here:.7g} here (another activation, eps, or attribute). "
            "Weights alone lead from one network to another: build both alike, or make an objective of each."
        )

    def require_same_structure(self, params: Mapping[str, Tensor], what: str) -> None:
        """Raise StructureMismatchError unless names and shapes are those of `self.params`."""
        require_weights(params, what)
        if difference := algebra.first_difference(params, self.params):
            raise StructureMismatchError(
                f"{what} and the objective differ at {difference}. Make points and directions from the same objective, "
                "of the parameters that move in it: objective.params, or objective.at(model).params for other weights."
            )

    # ------------------------------------------------------------------ saying what it is

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the weights, the data, the loss, the metrics or the BN policy."""
        digest = hashlib.sha256()
        for part in (self.params, self._held, self._buffers):
            algebra.update_hash(digest, part)
        fingerprint.update(digest, (self.name, self._loss.function, self._loss.reduction, self.bn, self.seed))
        fingerprint.update(digest, (self.metrics, self._measured_by, self.data_fingerprint))
        if self.mode == "train":
            fingerprint.update(digest, (self.mode,))
        return digest.hexdigest()[:16]

    @property
    def draws(self) -> bool | None:
        """Whether a pass draws random numbers from torch's, NumPy's or Python's generators, by `seed`; None: not known.

        Of a bare function without data it is known after its first value.
        """
        return self._drawn.get("draws")

    @cached_property
    def data_fingerprint(self) -> str:
        """Sixteen hex digits that change with any bit of the data; empty where there is none."""
        return self._data[0]

    @cached_property
    def _data(self) -> tuple[str, Repeats]:
        """The fingerprint of the data, and what one pass over it sees of its samples."""
        repeats = Repeats()
        if self.batches is None:
            return "", repeats
        digest = hashlib.sha256()
        with random_state.preserved(self.seed, self.device):
            self.batches.update_hash(digest, repeats.look)
        return digest.hexdigest()[:16], repeats

    def sampling(self) -> dict[str, Any]:
        """Say of the samples what their losses do not show, in numbers that JSON can hold.

        Returns
        -------
        dict
            ``distinct`` and ``copies`` (see `Repeats`; of a subset copies do no harm: it is the mean over all the data
            that it estimates), ``unseen_weight`` (part of the sum of weights that a class with a weight but no sample
            would have, were it 3/n of the data), ``rows`` (a fingerprint of the samples in their order, whatever the
            batches), and of a subset what is known of all the data at the centre:
            ``population`` with the ``skewness`` of its losses and its ``loss``. Without what is not known.
        """
        if self.batches is None:
            return {}
        repeats = self._data[1]
        found: dict[str, Any] = {} if self.population else repeats.copies()
        unseen = None if repeats.labels is None else self._loss.unseen_weight(repeats.labels)
        if unseen is not None:
            found["unseen_weight"] = unseen
        if repeats.rows is not None:
            found["rows"] = repeats.rows
        if self._of_all:
            found["population"] = dict(self._of_all)
        return found

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of every sample, shape (n,), where the targets are one whole number each; else None."""
        labels = self._data[1].labels if self.batches is not None else None
        return labels if labels is not None and labels.ndim == 1 else None

    def describe(self) -> dict[str, Any]:
        """Say what this objective is, in values that JSON can hold."""
        dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in self.params.values())
        return {
            "model": self.name,
            "loss": self._loss.name,
            "metrics": list(self.metrics),
            "metric_words": words_of(self.metrics),
            "parameters": sum(tensor.numel() for tensor in self.params.values()),
            "parameters_held": sum(tensor.numel() for tensor in self._held.values()),
            "moves": self._say_what_moves(),
            "held": list(self._held),
            "layers": None if self._layers is None else dict(self._layers),
            "buffers": None if self._layers is None else len(self._buffers),
            "buffers_unread": list(self._unread),
            "draws": self.draws,
            "loss_parameters_held": self._loss_parameters,
            "samples": self.samples,
            "population": self.population,
            "subset_seed": self.subset_seed,
            "batches": None if self.batches is None else len(self.batches),
            "cut": self._cut,
            "cut_samples": self._cut_samples,
            "metrics_cut": self._metrics_cut,
            "data_resident": None if self.batches is None else self.batches.resident,
            "bn": self.bn,
            **({"mode": self.mode} if self.mode == "train" else {}),
            "seed": self.seed,
            "device": str(self.device),
            "dtype": dtypes.most_common(1)[0][0],
            "origin": self.origin,
            "weights": self._weights,
            "data": self.data_fingerprint,
            "fingerprint": self.fingerprint,
        }

    def _say_what_moves(self) -> dict[str, Any]:
        """By what rule, and what of it the user does not train."""
        said: dict[str, Any] = {"params": self.moves, "tensors": len(self.params)}
        frozen = {name: tensor for name, tensor in self.params.items() if name not in self._trained}
        return said | {"frozen": _some(frozen)} | ({"also": list(self._also)} if self._also else {})

    def __getstate__(self) -> dict[str, Any]:
        """To be pickled or copied deeply: loss and metrics as every pass finds them."""
        self._pass.begin()
        return dict(vars(self))

    def __copy__(self) -> Self:
        made = type(self).__new__(type(self))
        vars(made).update(vars(self))
        return made

    def __repr__(self) -> str:
        entries = sum(tensor.numel() for tensor in self.params.values())
        samples = "" if self.samples is None else f", {self.samples:,} samples"  # known after a pass over the data
        return f"Objective({self.name}, {self._loss.name}, {entries:,} parameters{samples})"

    # ------------------------------------------------------------------ inside

    def _prove(self, model: nn.Module, step: StepFunction, copies: bool) -> None:
        """Pass the first batch: learn what the loss returns, how the model may be called, and what a pass writes to."""
        first = None if self.batches is None else self._first_batch()
        found = list(data_batches.tensors(first))
        if found and not any(tensor.numel() for tensor in found):
            raise DataError("The data is empty: its first batch holds no sample. Pass at least one sample.")
        center, held, buffers = self.params, self._held, self._buffers
        how = (self.bn, self.device, self.seed, copies, self.mode == "train")
        case = Case(model, step, self._pass, center, held, buffers, first, *how)
        proven = prove(case)
        self._adopt(proven.passes)
        self._writes_weights = proven.writes_weights
        if self.batches is not None:
            self.batches.written_to = proven.writes_data
        self._unplanned = proven.unplanned or ("it is evaluated in train mode" if self.mode == "train" else "")
        self._see_what_is_done(model, first)

    def _see_what_is_drawn(self) -> None:
        """Pass a few samples to see whether random numbers are drawn: then a picture is one of a draw."""
        if self.batches is None:
            return  # seen with the first value
        with random_state.preserved(self.seed, self.device):  # a loader draws random numbers to begin with
            part, params = few_of(self.batches.peek()), self.params | self._held
        passes = self.without_metrics()._pass

        def run() -> None:
            given = algebra.copy(params) if self._writes_weights else params
            leaves, buffers = passes.leaves(given, self._buffers, ())
            passes.one(leaves, buffers, data_batches.move(part, self.device), False)

        for _ in range(6):  # a part may show that the loss was misjudged
            try:
                with random_state.preserved(self.seed, self.device), torch.no_grad():
                    self._drawn["draws"] = random_state.draws(run, self.device)
                return
            except LossMisjudgedError:
                continue
            except Exception:  # a part of the batch may be none: then it is not known
                return

    def _first_batch(self) -> Batch:
        assert self.batches is not None
        with random_state.preserved(self.seed, self.device):
            return data_batches.move(self.batches.peek(), self.device)

    def _see_what_is_done(self, model: nn.Module, batch: Batch) -> None:
        """Pass a few samples to see what parameters are, of which neither a type nor a shape tells."""
        names = open_names(model, self._roles)
        if not names:
            return
        part, params = few_of(batch), self.params | self._held

        def run() -> None:
            self._pass.one(leaves, buffers, data_batches.move(part, self.device), False)

        try:
            with random_state.preserved(self.seed, self.device), torch.no_grad():
                given = algebra.copy(params) if self._writes_weights else params
                leaves, buffers = self._pass.leaves(given, self._buffers, ())
                self._roles = by_use(model, self._roles, {name: leaves[name] for name in names}, run)
        except Exception:  # what types and shapes say remains
            return
        self._take(self.params, {name: params[name] for name in self._everything})
        if self._layers is not None:
            self._layers = self._layers | count_roles(self.roles, self.params)

    def _hold_cuts(self, misjudged: Batch | None = None) -> None:
        """Hold a few samples against themselves in smaller batches; warn where the loss depends on the cut.

        A BatchNorm of each batch's own, and ``reduction="batch"``, say that it does; `count=` says what batches weigh.
        """
        if self.batches is None or self._of_batch or self._loss.reduction == "batch" or not self._counts:
            return
        with random_state.preserved(self.seed, self.device):  # a loader draws random numbers to begin with
            batches = [self.batches.peek(), *self.batches.last] if misjudged is None else [misjudged]
        found = self._cuts(batches)
        self._cut_samples = sum(cut.samples for cut in found)
        reading = self._loss.reading
        if reading.loose and not reading.weighs:  # a mean and something more: perhaps what that is does not matter
            reading.take(True)
            if (taken := self._cuts(batches)) and all(cut.agrees(self._rounding) for cut in taken):
                return
            reading.take(False)
        apart = [cut for cut in found if not cut.agrees(self._rounding)]
        if apart and reading.weighs:  # what is a mean over one sample may yet count the same as any other
            reading.take(False)
            if all(cut.agrees(self._rounding) for cut in self._cuts(batches)):
                return
        if apart:
            cut = apart[0]
            self._cut = {"samples": cut.samples, "whole": cut.whole, "parts": cut.parts}
            warnings.warn(
                f"The loss of {self.name} depends on how the data is cut into batches: {cut.samples} samples gave "
                f"{cut.whole:.6g} as one batch and {cut.parts:.6g} as two, weighted by their numbers of samples. What "
                "is reported holds for the batches as they came. Let the loss return one value a sample "
                "(reduction='none'), say by count= what it is a mean over, or pass reduction='batch' where a loss "
                "belongs to its batch, as a contrastive one does.",
                BatchDependenceWarning,
                stacklevel=3,
            )

    @property
    def _rounding(self) -> float:
        every = (tensor for tensor in (*self.params.values(), *self._held.values()) if tensor.is_floating_point())
        wide = all(tensor.dtype in (torch.float32, torch.float64) for tensor in every)
        return 1e-4 if wide else 5e-2

    def _hold_scores(self) -> None:
        """Hold accuracies of a model that is given the targets to scores that do not depend on them."""
        named = [metric.name for metric in self.metrics.values() if isinstance(metric, NamedMetric)]
        if not named or self.batches is None:
            return
        passes, batch = self.without_metrics()._pass, few_of(self._first_batch())

        def measure(part: Batch) -> StepValues:
            params = algebra.copy(self.params | self._held) if self._writes_weights else self.params | self._held
            with random_state.preserved(self.seed, self.device), torch.no_grad():
                return passes.one(
                    *passes.leaves(params, self._buffers, ()), data_batches.move(part, self.device), False
                )

        self._loss.hold_scores_of_model(measure, batch, self._count(batch, None), named[0])

    def _hold_metrics(self) -> None:
        """Hold the user's own metrics likewise: F1 and R2 of batches do not average to that of all samples.

        A metric of all the data in one batch is what it is.
        """
        if self.batches is None or len(self.batches) < 2 or self._of_batch or self._loss.reduction == "batch":
            return
        own = {name: metric for name, metric in self.metrics.items() if not isinstance(metric, NamedMetric)}
        if not own or not self._counts:
            return
        with random_state.preserved(self.seed, self.device):
            batches = [self.batches.peek(), *self.batches.last]
        for name, metric in own.items():
            found = self._measuring(self._loss, {name: metric})._cuts(batches, name)
            if apart := [cut for cut in found if not cut.agrees(self._rounding)]:
                cut = apart[0]
                self._metrics_cut[name] = {"samples": cut.samples, "whole": cut.whole, "parts": cut.parts}
                warnings.warn(
                    f"The metric {name!r} depends on how the data is cut into batches: {cut.samples} samples gave "
                    f"{cut.whole:.6g} as one batch and {cut.parts:.6g} as two. What is reported is the mean over "
                    f"{len(self.batches)} batches, weighted by their numbers of samples. Let it return one value a "
                    "sample, or pass all the data as one batch (batch_size=).",
                    BatchDependenceWarning,
                    stacklevel=3,
                )

    def _uneven(self, measure: Callable[[Batch], StepValues], name: str) -> list[Probe]:
        """Samples that may weigh most unlike, where a batch gives a mean and nobody knows of what."""
        kept = self.batches
        if kept is None or len(kept) < 2 or not kept.resident:
            return []
        value = measure(kept.peek())[1][name]
        if isinstance(value, tuple) or value.dim():
            return []
        with random_state.preserved(self.seed, self.device):
            return uneven(kept, lambda batch: self._count(batch, None))

    def _cuts(self, batches: Sequence[Batch], name: str = "loss") -> list[Cut]:
        """The loss of a few samples of some batches, as one batch and as two; nothing where that cannot be said."""
        passes = self.without_metrics()._pass if name == "loss" else self._pass

        def measure(part: Batch, seed: int = self.seed) -> StepValues:
            params = algebra.copy(self.params | self._held) if self._writes_weights else self.params | self._held
            with random_state.preserved(seed, self.device), torch.no_grad():
                leaves = passes.leaves(params, self._buffers, ())
                return passes.one(*leaves, data_batches.move(part, self.device), False)

        def noisy(probe: Probe) -> bool:
            """Whether the model draws random numbers, which are others for another batch."""
            once, again = (reduce_steps([measure(probe.whole, self.seed + i)], True)[0][name] for i in (0, 1))
            return once != again

        for _ in range(6):  # a part may show that the loss was misjudged
            try:
                probes = few_samples(batches, lambda batch: measure(batch)[0])
                found = [(probe, cut) for probe in probes if (cut := probe.measure(measure, name)) is not None]
                if all(cut.agrees(self._rounding) for _, cut in found):
                    more = ((probe, probe.measure(measure, name)) for probe in self._uneven(measure, name))
                    found += [(probe, cut) for probe, cut in more if cut is not None and not cut.agrees(self._rounding)]
                return [cut for probe, cut in found if cut.agrees(self._rounding) or not noisy(probe)]
            except LossMisjudgedError:
                continue
            except Exception:  # parts of a batch may be none: a model that takes batches of one size
                return []
        return []
