"""What is being minimised: a model, a loss, data, metrics.

An objective is a pure function of weights: ``objective.evaluate(params) -> {"loss": ..., "accuracy": ...}``. When it is
built it copies the weights and buffers of the model, and it never touches the model afterwards, so training may go on
(unless ``copy=False``).

This file is longer than the others because it holds the public class with its documentation. The work is done
elsewhere: `building` validates the user's input, `fields` holds the attributes, `first_batch` and `batch_dependence`
check an objective when it is built, `forward_pass` evaluates it, `subset`, `selection` and `recentering` make
the same objective of other data, other parameters and other weights, and `description` describes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossnav.checkpoints import weights
from lossnav.objective import (
    batch_dependence,
    building,
    description,
    first_batch,
    recentering,
    roles,
    selection,
    subset,
)
from lossnav.objective.batch_tensors import Batch, to_double
from lossnav.objective.batches import DEFAULT_BUDGET
from lossnav.objective.fields import ObjectiveFields
from lossnav.objective.forward import Forward
from lossnav.objective.forward_pass import ForwardPass
from lossnav.objective.loss import Loss
from lossnav.objective.metrics import Metric
from lossnav.objective.modes import Mode
from lossnav.objective.reduction import Values
from lossnav.objective.repeats import Repeats
from lossnav.params import Params

_ALIKE = 1e-4  # relative: losses that differ by no more come from the same random numbers, or from none
_OF_A_DRAW = 0.05  # part of the effect of another seed that float32 arithmetic may have


class Objective(ObjectiveFields):
    """A loss over data as a pure function of a model's weights.

    Parameters
    ----------
    model : nn.Module
        Any module. lossnav never changes it: it calls a private copy of its structure, in eval mode, with its own
        copies of the weights and buffers. A model in train mode is evaluated in eval mode too, with a warning (see
        `mode`). Every pass starts from the same state: buffers that the forward pass writes (a queue, a moving
        average) go from batch to batch within a pass and are reset before the next. On the first batch, the values at
        the centre and at one displaced point are compared with those of a fresh copy of the model.
    loss : callable, str or None
        ``loss(outputs, targets)``, or one of "cross_entropy", "mse", "l1", "nll",
        "binary_cross_entropy_with_logits". A loss with a ``reduction`` argument (all of torch's) is evaluated with one
        value per sample, which gives `loss_se`, if their mean equals the loss; class weights and ignored targets of
        torch's cross-entropy are averaged correctly over all the data, also if a function of your own or the model
        calls it. Any other mean is weighted by the number of samples in its batch. None: the model is called with the
        whole batch and returns its loss, as a scalar or in ``outputs.loss``.
        Loss, metrics and `forward` are copied too, with the modules they hold or enclose, and called in eval mode; a
        reference to the model becomes a reference to the copy. Parameters of the loss do not move.
    data : (x, y) tensors or arrays, dict of tensors, Dataset, DataLoader, or iterable of batches
        Read once and kept on the device if it fits into `data_budget`.
    metrics : sequence of str or callables, or dict of name to callable
        Measured besides the loss. Fractions in [0, 1] by name: "accuracy", "error" and "top5_accuracy" of predictions,
        "token_accuracy" of positions, "element_accuracy" of binary outputs, "exact_match" of samples with all
        predictions right. The loss decides what a prediction is and which positions count. Or
        ``metric(outputs, targets)``, which returns the mean of the batch or one value per sample.
    params : "trainable", "all", glob pattern, or a sequence of these
        Which parameters may move; the others are held at their values. By default those that the user trains
        (``requires_grad``), or all if none is trained. ``"all"`` includes frozen parameters; a pattern selects by
        name, frozen or not.
    reduction : "auto", "mean", "none" or "batch"
        What the loss returns: the mean of the batch, or one value per sample. "auto" finds out for losses with a
        ``reduction`` argument and assumes a mean for any other. "batch": a value that belongs to its batch, as that of
        a contrastive loss; batches are averaged with their numbers of samples as weights.
    forward : callable, optional
        ``forward(model, batch) -> (outputs, targets)``, for batches that do not unpack. By default a batch
        ``(x, y)`` calls ``model(x)``; ``(a, b, …, y)`` calls ``model(a, b, …)``; a dict calls ``model(**batch)``
        without its ``labels`` (or ``label``, ``targets``, ``target``, ``y``). If the outputs have ``logits``, loss and
        metrics get those.
    mode : "eval" or "train", optional
        "eval" by default. "train": model, loss and metrics are called as after ``model.train()``, for losses that
        exist only there, or to see the loss that training lowers. Random numbers (dropout and others) are the same at
        every point, from `seed`: the surface is that of one draw, and smooth. What the pass writes (running
        statistics) reaches neither your model nor another point. Fast plans are not used.
    bn : "frozen", "recompute" or "batch", optional
        BatchNorm at a displaced point: the running statistics of the centre (the default); statistics recomputed from
        the data at every point (one more pass, all batches weighted equally); or the statistics of each batch, the
        default in train mode. In train mode "frozen" keeps only BatchNorm in eval mode, and "recompute" is refused.
    device : str or torch.device, optional
        By default the device of the model.
    batch_size : int, optional
        For tensors and Datasets. Default 50 on the CPU, 1,024 elsewhere.
    data_budget : int
        Bytes of data to keep on the device (default 4 GiB); larger data is read again at every point.
    subset : int or "auto", optional
        Use only this many samples, drawn once with `seed`, the same at every point; see the method `subset`.
    seed : int
        Seed of the random numbers that a model draws, which are the same at every point, and of the subset.
    progress : bool or None
        Whether to show a progress bar while the data is loaded (None: on a terminal).
    count : callable, "samples" or "targets", optional
        The number of samples in a batch: `samples` in the report, and the weight of a loss that returns a mean. By
        default it is counted from the inputs of the model (graphs, sequences, entries of a list, rows).
        ``count(batch) -> int`` is your own rule; "targets" counts the rows of the targets.
    copy : bool
        False: use the model's own weights instead of copying them, for a model too large to be held twice. lossnav
        does not write to them, but you must not train the model, load into it or move it while the objective or a
        chart around it is in use: the centre would change. Weights on another device than `device` are copied there.

    Attributes
    ----------
    params : dict of str to Tensor
        The centre: a copy of the parameters that may move, or with ``copy=False`` the model's own.
    moves : str or list of str
        What was passed as `params`.
    roles : dict of str to {"weight", "bias", "norm"}
        The role of each moving parameter; "norm" is any parameter of a normalisation layer.
    transposed : dict of str to int
        Weights whose filters run along the second axis, with their number of groups.
    origin : mapping or None
        The SPEC it was built from (see `load_objective`), so that another process can build it too.

    Raises
    ------
    DataError
        If the data is empty or a batch does not unpack.
    LossShapeError
        If the loss returns a vector without ``reduction="none"``, or a scalar with it.
    OptionError
        If an option has an unknown value or no parameter matches `params`.
    ObjectiveError
        If the model cannot be called with other weights, because it reaches one through a global, for example.
    DeviceError
        If the device does not exist.

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.requires_grad_(False).weight.fill_(2.0)
    >>> objective = Objective(model, "mse", (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)))
    >>> objective.evaluate(objective.params)
    {'loss': 20.0, 'loss_se': 16.0}
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any] | str | None,
        data: Any,
        *,
        metrics: Sequence[str | Metric] | Mapping[str, Metric] = (),
        params: str | Sequence[str] = "trainable",
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
        fields, step = building.of_model(
            model,
            loss,
            data,
            metrics=metrics,
            params=params,
            reduction=reduction,
            forward=forward,
            mode=mode,
            bn=bn,
            device=device,
            batch_size=batch_size,
            data_budget=data_budget,
            seed=seed,
            progress=progress,
            copy=copy,
            count=count,
        )
        super().__init__(**vars(fields))
        first_batch.prove_model(self, model, step, copy)
        own = self._forward if forward else None
        self._measured_by = (
            own,
            getattr(type(model), "forward", None),
            repr(model),
            *(() if count is None else (count,)),
        )
        batch_dependence.check_loss(self)
        batch_dependence.check_metrics(self)
        if loss is None or forward is not None:
            first_batch.check_scores(self)
        first_batch.detect_random_numbers(self)
        if subset is not None:
            vars(self).update(vars(self.subset(subset, seed)))

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
        """Make an objective of a bare function, without a module.

        Parameters
        ----------
        function : callable
            ``function(params)``, or ``function(params, batch)`` if there is data; returns a scalar, or with
            ``reduction="none"`` one value per sample.
        params : mapping of str to Tensor
            The centre; copied.
        data : optional
            As in `Objective`; the function is called once per batch and batches are weighted by their length.
        metrics : mapping of str to callables, optional
            Called with the same arguments as the function.
        reduction : "mean" or "none"
        name : str, optional
            For the stored surface; by default the name of the function.
        batch_size, data_budget, seed : optional
            As in `Objective`.
        count : callable, optional
            ``count(batch) -> int``: the samples in a batch and its weight in the mean; as in `Objective`.

        Raises
        ------
        OptionError
            If the function cannot be called in this way, or a parameter is not a floating-point tensor.
        ObjectiveError
            If a value depends on what was evaluated before.

        Examples
        --------
        >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
        >>> bowl.evaluate({"x": torch.tensor([3.0, 4.0])})
        {'loss': 25.0}
        """
        fields, step = building.of_function(
            function,
            params,
            data,
            metrics=metrics,
            reduction=reduction,
            name=name,
            batch_size=batch_size,
            data_budget=data_budget,
            seed=seed,
            count=count,
        )
        made = cls._of(vars(fields))
        first_batch.prove_function(made, step)
        made._measured_by = made._forward if count is None else (made._forward, made._count)
        batch_dependence.check_loss(made)
        batch_dependence.check_metrics(made)
        first_batch.detect_random_numbers(made)
        return made

    # ------------------------------------------------------------------ evaluating

    def evaluate(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None) -> Values:
        """Evaluate loss and metrics at a point of weight space, over all the data.

        Parameters
        ----------
        params : mapping of str to Tensor
            Names and shapes of `self.params`. Other dtypes are converted. Values of held parameters may be included;
            they are used at this point.
        buffers : mapping of str to Tensor, optional
            All or some of the buffers of the model at this point. By default those that the point carries (as
            ``chart(coords)`` of a chart through checkpoints does), else those of the centre.

        Returns
        -------
        dict of str to float
            ``loss``: mean over the samples, accumulated in float64. ``loss_se``: standard error of that mean,
            s / sqrt(n) with s the sample standard deviation over the data; only if the per-sample losses are
            available, and nan for one sample. Then every metric. Values that overflow are inf or nan.

        Raises
        ------
        StructureMismatchError
            If names or shapes differ.
        """
        run = self.forward_pass
        values, self.samples = run.reduce(run.checked(params, buffers))
        return values

    @property
    def forward_pass(self) -> ForwardPass:
        """One pass over the data with given weights and buffers: `lossnav.objective.ForwardPass`."""
        return ForwardPass(self)

    def keeping_samples(self) -> Objective:
        """Return the same objective, whose values carry the per-sample losses."""
        return self._with(_keeps_samples=True)

    def buffers_at(self, point: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None) -> Params:
        """Return all buffers of the model at a point: those given, else those the point carries, else the centre's.

        Raises
        ------
        StructureMismatchError
            If the model has no buffer of that name, or one of another shape.
        """
        return recentering.buffers_at(self, point, buffers)

    # ------------------------------------------------------------------ the same objective, changed in one respect

    def subset(self, n: int | Literal["auto"] = "auto", seed: int = 0) -> Objective:
        """Return the same objective on a random part of the data, the same part at every point.

        The loss then estimates the loss over all the data, and ``loss_se`` is its standard error: s / sqrt(n) times
        sqrt(1 - n / N), because samples are drawn without replacement (Cochran 1977, eq. 2.20). Differences between
        points are more precise than that, because the samples are the same (common random numbers).

        Parameters
        ----------
        n : int or "auto"
            Number of samples. "auto": as many as make the standard error at the centre 1 % of the loss, but at least
            100; this takes one pass over all the data.
        seed : int

        Raises
        ------
        OptionError
            If n is below 2 or above the number of samples, or "auto" has no per-sample losses to use.
        DataError
            If the data does not consist of tensors with one row per sample.

        Examples
        --------
        >>> x = torch.arange(8.0).reshape(-1, 1)
        >>> objective = Objective(nn.Linear(1, 1), "mse", (x, x))
        >>> objective.subset(4, seed=1).describe()["population"]
        8
        """
        return subset.draw(self, n, seed)

    def at(
        self,
        state: Mapping[str, Tensor] | nn.Module | str | os.PathLike[str],
        missing: weights.Missing = "refuse",
    ) -> Objective:
        """Return the same objective centred at other weights, such as those of a checkpoint.

        Parameters
        ----------
        state : mapping of str to Tensor, nn.Module or path
            A state dict, a module, or the file of a state dict. It needs every moving parameter and every buffer, and
            may have held parameters. Buffers that are in no file (``persistent=False``) and the counter
            ``num_batches_tracked`` may be missing; if `bn` is not "frozen", BatchNorm statistics too.
        missing : "refuse" or "keep"
            What to do if other tensors are missing. ``keep`` takes those of the objective, with a warning that names
            them.

        Raises
        ------
        CheckpointMismatchError
            If a moving parameter or a buffer is missing, has another shape, or a name is unknown.

        Examples
        --------
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).eval()
        >>> objective = Objective(model, "mse", (torch.zeros(2, 1), torch.zeros(2, 1)))
        >>> later = objective.at(model.state_dict() | {"1.running_mean": torch.tensor([3.0])})
        """
        return recentering.at(self, state, missing)

    def around(self, point: Mapping[str, Tensor]) -> Objective:
        """Return the same objective centred at a point of its own weight space, such as ``chart(coords)``.

        Buffers that the point does not carry stay as they are. For saved or separately trained weights use `at`.

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
        return recentering.around(self, point)

    def moving(self, params: str | Sequence[str]) -> Objective:
        """Return the same objective in which other parameters move, as if built with this `params`.

        Raises
        ------
        OptionError
            If no parameter of the model matches.

        Examples
        --------
        >>> model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
        >>> objective = Objective(model, "mse", (torch.ones(1, 2), torch.ones(1, 1)))
        >>> list(objective.params), list(objective.moving("0.*").params)
        (['1.weight', '1.bias'], ['0.weight', '0.bias'])
        """
        return selection.moving(self, params)

    def moving_also(self, names: Collection[str]) -> Objective:
        """Return the same objective in which these parameters move too.

        Raises
        ------
        OptionError
            If the user chose by `params` what moves.
        """
        return selection.moving_also(self, names)

    def moving_only(self, names: Collection[str]) -> Objective:
        """Return the same objective in which only these of the moving parameters move."""
        return selection.moving_these(self, [name for name in self.params if name in names])

    def moving_as(self, stored: Mapping[str, Any]) -> Objective:
        """Return the same objective in which the parameters move that a stored `describe` names."""
        return selection.moving_as(self, stored)

    def double(self) -> Objective:
        """Return the same objective with model, weights, data and loss in float64; its fingerprint is another.

        Class weights of torch's own losses are converted too. Tensors that a loss or a model of the user's own keeps
        elsewhere (in a closure, for example) are not, and torch raises when it is evaluated.

        Examples
        --------
        >>> objective = Objective(nn.Linear(1, 1), "mse", (torch.ones(2, 1), torch.ones(2, 1)))
        >>> objective.double().params["weight"].dtype
        torch.float64
        """
        wide = {
            part: {name: to_double(tensor) for name, tensor in getattr(self, part).items()}
            for part in ("params", "_held", "_buffers")
        }
        batches = None if self.batches is None else self.batches.double()
        made = self._with(_pass=self._pass.apart(double=True), batches=batches, _plans={}, origin=None, **wide)
        if isinstance(made._loss.function, nn.Module):  # `apart` has converted a module already
            return made
        return made._measuring(made._loss.double(), made.metrics)

    def apart(self) -> Objective:
        """Return the same objective for another thread: both may be evaluated at the same time.

        Weights and data are shared, and only read. A bare function of the user's is called from both threads.
        """
        made = self._with(_pass=self._pass.apart())
        if "fingerprint" in vars(self):  # a copy of the same loss and metrics: hashing the weights again is slow
            vars(made)["fingerprint"] = self.fingerprint
        return made

    def without_metrics(self) -> Objective:
        """Return the same objective without its metrics."""
        return self._measuring(self._loss, {})

    def _measuring(self, loss: Loss, metrics: dict[str, Metric]) -> Objective:
        """Return the same objective with another loss and other metrics."""
        step = cast(Any, self._step)
        forward, _, _, *rest = step.args
        return self._with(_pass=self._pass.measuring(partial(step.func, forward, loss, metrics, *rest)))

    # ------------------------------------------------------------------ questions

    def draws_as(self, exact: Objective, loss_of: Callable[[Objective], float] | None = None) -> bool:
        """Whether this objective draws the same random numbers as it does in float64; True if it draws none.

        Dropout draws the same. `torch.randn` in a forward pass (of a VAE, for example) draws other numbers in float64
        from the same seed: the two objectives are then two losses, and their difference is not a rounding error.

        Parameters
        ----------
        exact : Objective
            The same in float64.
        loss_of : callable, optional
            From an objective to its loss; by default the loss at its centre.

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
        other = loss_of(self._with(seed=self.seed + 1))
        return other == loss or abs(loss - wide) <= _OF_A_DRAW * abs(loss - other)

    def of_what_moves(self, params: str | Sequence[str]) -> list[str]:
        """Names of the moving parameters that `params` chooses (as in `Objective`); ``"*"`` chooses all.

        Raises
        ------
        OptionError
            If it is "all" and some parameters are held, or a pattern that matches only held parameters.
        """
        return selection.names_of(self, params)

    def excluded(self, exclude: Sequence[str]) -> set[str]:
        """Names of the moving parameters that `exclude` leaves out: roles ("bias", "norm") or names (glob patterns).

        Raises
        ------
        OptionError
            If a pattern matches nothing.
        """
        return roles.excluded(self.params, self.roles, exclude)

    def require_same_function(self, other: Objective | nn.Module) -> None:
        """Raise StructureMismatchError if another network is not this one at other weights.

        Weights with the same names and shapes may belong to another activation, another `eps`, another order of
        layers. A few samples are passed through both networks with the weights of this objective.
        """
        recentering.require_same_function(self, other)

    def require_same_structure(self, params: Mapping[str, Tensor], what: str) -> None:
        """Raise StructureMismatchError unless names and shapes are those of `self.params`."""
        recentering.require_same_structure(self, params, what)

    @property
    def anatomy(self) -> weights.Anatomy:
        """What each tensor of the model is: moving, held or a buffer, and which of them a checkpoint may lack."""
        return recentering.anatomy(self)

    # ------------------------------------------------------------------ describing

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the weights, the data, the loss, the metrics or the BatchNorm policy."""
        return description.fingerprint_of(self)

    @property
    def data_fingerprint(self) -> str:
        """Sixteen hex digits that change with any bit of the data; empty without data."""
        return self._data[0]

    @cached_property
    def _data(self) -> tuple[str, Repeats]:
        return description.read_data(self)

    @property
    def draws(self) -> bool | None:
        """Whether a pass draws random numbers from torch's, NumPy's or Python's generators; None: not known yet.

        For a bare function without data it is known after the first value.
        """
        return self._drawn.get("draws")

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of every sample, shape (n,), if each target is one whole number; else None."""
        labels = self._data[1].labels if self.batches is not None else None
        return labels if labels is not None and labels.ndim == 1 else None

    def sampling(self) -> dict[str, Any]:
        """Facts about the samples that their losses do not show, in values that JSON can hold.

        Returns
        -------
        dict
            Only what is known of: ``distinct`` and ``copies`` (see `Repeats`; not for a subset, which estimates the
            mean over all the data, copies included); ``unseen_weight``, the part of the sum of weights that a class
            without samples would have at 3/n of the data; ``rows``, a fingerprint of the samples in their order,
            whatever the batches; for a subset ``population``, with the ``loss`` over all the data at the centre and
            the ``skewness`` of its losses.
        """
        return description.sampling(self)

    def describe(self) -> dict[str, Any]:
        """Describe this objective in values that JSON can hold."""
        return description.describe(self)

    def __repr__(self) -> str:
        entries = sum(tensor.numel() for tensor in self.params.values())
        samples = "" if self.samples is None else f", {self.samples:,} samples"  # known after a pass over the data
        return f"Objective({self.name}, {self._loss.name}, {entries:,} parameters{samples})"
