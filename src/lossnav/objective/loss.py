"""What is measured on a batch: the loss, for each sample where it can be had, and metrics beside it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lossnav._utils import random_state
from lossnav._utils.validation import described
from lossnav.errors import LossShapeError, OptionError
from lossnav.objective import contents as contents_module
from lossnav.objective import kept_state
from lossnav.objective.batches import map_tensors, to_double
from lossnav.objective.diagnosis import require_same_size
from lossnav.objective.functional import Measured, StepValues
from lossnav.objective.readings import LossMisjudgedError as LossMisjudgedError
from lossnav.objective.readings import Reading
from lossnav.objective.watching import CLASSES, YES_OR_NO, LossCall, LossWatch, unwatched

_OF_TORCH = tuple(value for name, value in vars(F).items() if name.endswith("_loss") or "cross_entropy" in name)
_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "nll": F.nll_loss,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
}


class Loss:
    """A loss that gives one value a sample where it can, else the mean of the batch.

    Cross-entropy and NLL with class weights or ignored targets are sums over samples divided by a sum of weights; for
    them every sample has a numerator and a weight, so that the value does not depend on how the data is cut into
    batches. Of any other loss with a ``reduction`` argument the mean of single losses is held against the loss itself,
    on every batch of the first pass over the data.
    """

    def __init__(self, loss: Callable[..., Any] | str | None, reduction: str) -> None:
        if isinstance(loss, str):
            if loss not in _LOSSES:
                raise OptionError(f"loss={loss!r} is unknown. Use one of {', '.join(_LOSSES)}, or pass a callable.")
            loss = _LOSSES[loss]
        if reduction not in ("auto", "mean", "none", "batch"):
            raise OptionError(f"reduction={reduction!r} is unknown. Use 'auto', 'mean', 'none' or 'batch'.")
        if isinstance(loss, type):
            raise OptionError(f"The loss is {described(loss)}. Pass an instance of it: loss={loss.__name__}().")
        if loss is not None and not callable(loss):
            raise OptionError(f"The loss is {described(loss)}. Pass a callable loss(outputs, targets).")
        self.function, self.reduction = loss, reduction
        self._scores_held = loss is None  # whether they do not depend on the targets
        self.by_inputs = False  # whether it differentiates the network by its inputs, as of a PINN
        self.name = "the model's own" if loss is None else name_of(loss)
        self._single: Callable[..., Any] | None = _per_sample(loss) if reduction == "auto" and loss else None
        self._weights = _ClassWeights.of(loss) if self._single is not None else None
        declared = _declared_reduction(loss)
        self._proven = self._single is None or self._weights is not None or declared == "none"
        if reduction != "none" and declared == "sum":
            raise LossShapeError(
                f"{self.name} sums over the batch, so its value depends on the batch size. "
                "Use reduction='mean' in the loss."
            )
        if reduction == "auto" and declared == "none" and self._single is None:
            self.reduction = "none"
        self.reading = Reading(self.name, weighs=False, predicts=False, follows=False)

    def read(self, weighs: bool, predicts: bool) -> None:
        """Say what is to be found out: what a mean is a mean over, and what a prediction is."""
        weighs = weighs and self.reduction in ("auto", "mean")
        own = getattr(type(self.function), "__module__", "") == nn.modules.loss.__name__ or self.function in _OF_TORCH
        self.reading = Reading(self.name, weighs, predicts, follows=not own)
        self._scores_held = own or self.function is None

    def watch(self) -> LossWatch | None:
        """What to enter while the loss is computed, where something is to be found out."""
        hidden = self._single is None and self.reduction != "none"
        if hidden and self.reading.active:
            return self.reading.watch()
        return self.reading.watch() if self.reading.predicts and not self.reading.known else None

    def weigh(self, value: Measured, watch: LossWatch | None, outputs: Any, targets: Any) -> Measured:
        """Turn the mean of a batch into numerator and weight, where it is known what it is a mean over."""
        if isinstance(value, tuple) or value.dim():
            return value
        weight = self.reading.weight(watch.calls if watch is not None else (), value, logits(outputs), targets)
        if weight is None:
            return value
        return torch.where(weight > 0, value.double(), torch.zeros_like(value.double())) * weight, weight

    def __call__(self, outputs: Any, targets: Any, n: int) -> Measured:
        """Return the loss of a batch of n samples: shape (n,), or numerators and weights, or a mean of shape ()."""
        if self.function is None:
            return self.check(_own_loss(outputs), n, targets)
        outputs = logits(outputs)
        if not self.reading.settled or not self._proven:
            require_same_size(self.function, outputs, targets)
        if self._single is None:
            return self.check(self.function(outputs, targets), n, targets)
        single = self._single(outputs, targets)
        if self._weights is not None and self._weights.apply_to(targets):
            return by_sample(single, self._weights(targets), n)
        if not self._proven:
            self._prove(outputs, targets, single, n)
        return _means(single, n)

    def hold_scores(self, calls: Sequence[LossCall], outputs: Any, targets: Any, metric: str) -> None:
        """Raise where the scores of torch's loss depend on the targets: with those it cannot be said what is right.

        A margin (ArcFace, LDAM) lowers the score of the class that is right, so that fewer samples look right; a choice
        of the hardest samples leaves the others out. Targets of two classes are exchanged once to see it.

        Raises
        ------
        OptionError
            If they do; it names the two readings.
        """
        useful = [call for call in calls if call.name in (*CLASSES, *YES_OR_NO)]
        if self._scores_held or self.reading.settled or len(useful) != 1 or not isinstance(targets, Tensor):
            return
        (call,) = useful
        pair = _pair_of_classes(call)
        if pair is None:
            return
        kept, scores = kept_state.Kept(self.users_parts, borrowed=True), []
        try:
            for labels in (targets, _exchanged(targets, *pair)):
                with random_state.preserved(0, targets.device), LossWatch() as watch:
                    cast(Any, self.function)(
                        map_tensors(outputs, Tensor.clone), labels.clone()
                    )  # which may be written into
                (again,) = [c for c in watch.calls if c.name == call.name]
                scores.append(again.input)
        except Exception:  # other targets may be none
            return
        finally:
            kept.restore()
        several = _has_several_classes(call)
        self._scores_held = several
        if not _same_scores(scores, several):
            raise OptionError(
                f"metric {metric!r} has two readings here: the loss {self.name} changes or chooses the scores by their "
                "targets (a margin, or the hardest samples), so what cross-entropy is given and the outputs of the "
                "model need not agree. Pass the one you want, for the outputs: "
                f"metrics={{{metric!r}: lambda outputs, targets: (outputs.argmax(1) == targets).float()}}"
            )

    def hold_scores_of_model(self, measure: Callable[[Any], Any], batch: Any, n: int, metric: str) -> None:
        """The same of a model that is given the targets, one a sample: they are exchanged in the batch.

        Where there are more (tokens), a model may be given them to go on from, as a decoder is.

        Parameters
        ----------
        measure : callable
            Passes a batch through model and loss.
        batch : Batch
        n : int
            Its samples.
        metric : str

        Raises
        ------
        OptionError
            If its scores depend on them.
        """

        def calls(given: Any) -> list[LossCall]:
            with LossWatch() as watch:
                measure(given)
            return [call for call in watch.calls if call.name in (*CLASSES, *YES_OR_NO)]

        try:
            (call,) = calls(batch)
            pair = _pair_of_classes(call)
            wanted = call.target.reshape(-1)
            if (
                pair is None
                or len(wanted) != n
                or not any(_are(tensor, wanted) for tensor in contents_module.tensors(batch))
            ):
                return
            (again,) = calls(map_tensors(batch, lambda t: _exchanged(t, *pair) if _are(t, wanted) else t))
        except Exception:  # other targets may be none, and a loss may call several of torch's
            return
        if not _same_scores([call.input, again.input], _has_several_classes(call)):
            raise OptionError(
                f"metric {metric!r} has two readings here: the model is given the targets and changes its scores by "
                "them (a margin), so what cross-entropy is given is not what it would predict. Let forward() return "
                "its loss and its logits without the margin, {'loss': ..., 'logits': ...}, and pass "
                f"metrics={{{metric!r}: lambda outputs, targets: (outputs.argmax(1) == targets).float()}}"
            )

    def unseen_weight(self, labels: NDArray[np.int64]) -> float | None:
        """Part of the sum of weights that a class with no sample among so many would have, were it 3/n of the data.

        Of all classes that have a weight of their own the largest; None without class weights.
        """
        weights = None if self._weights is None else self._weights.weight
        if weights is None or not self._weights:
            return None
        table = weights.detach().cpu().double().numpy()
        seen = labels[(labels != self._weights.ignore_index) & (labels >= 0) & (labels < len(table))]
        unseen = np.setdiff1d(np.arange(len(table)), seen)
        if not len(unseen) or not len(seen):
            return 0.0
        largest, total = 3.0 * float(table[unseen].max()), float(table[seen].sum())  # 3/n of n samples
        return largest / (total + largest) if largest > 0 else 0.0

    @property
    def users_parts(self) -> tuple[Any, ...]:
        """What of this is the user's, and may have a state."""
        return (self.function, self._single)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be proven."""
        return self._proven and (self.reading.settled or self.watch() is None)

    def double(self) -> Loss:
        """Return the same loss for outputs in float64: its class weights are float64."""
        other = copy.copy(self)
        other.function = _doubled(self.function)
        if self._single is not None and other.function is not None:
            other._single = _per_sample(other.function)
        return other

    def settle(self) -> None:
        """Say that a whole pass over the data agreed: nothing more is to be proven."""
        self._proven = self.reading.settled = True

    def check(self, value: Any, n: int, targets: Any = None) -> Measured:
        """Hold a value against what the reduction promises: a scalar, or (n, ...) averaged to (n,)."""
        targets_n = length_of(targets)
        if not isinstance(value, Tensor):
            value = self._number(value)
        if self.reduction == "none":
            if value.dim() == 0 or value.shape[0] not in (n, targets_n):
                raise LossShapeError(
                    f"The loss {self.name} returned shape {tuple(value.shape)} for {n} samples, though "
                    "reduction='none' promises one value a sample. Use reduction='mean', or return shape (n,)."
                )
            return _means(value, n)
        if value.numel() != 1:
            raise LossShapeError(
                f"The loss {self.name} returned a vector of shape {tuple(value.shape)} where one number was "
                "expected. Pass reduction='none' if it holds one value a sample, or return its mean."
            )
        scalar: Tensor = value.reshape(())
        return scalar

    def _number(self, value: Any) -> Tensor:
        """A number or an array as a tensor."""
        try:
            return torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            pass
        if isinstance(value, Mapping) and self.function is None:
            terms = ", ".join(map(str, value))
            raise LossShapeError(
                f"The model returned a dict with {terms}, none of them 'loss'. Say what its loss is: "
                "forward=lambda model, batch: (sum(model(*batch).values()), None)."
            )
        raise LossShapeError(
            f"The loss {self.name} returned {described(value)} where one number was expected. Return the mean of the "
            "batch, or with reduction='none' one value a sample."
        )

    def _prove(self, outputs: Any, targets: Any, single: Any, n: int) -> None:
        """Keep single losses only while their mean is the loss."""
        assert self.function is not None
        with unwatched():
            mean = cast(Tensor, self.check(self.function(outputs, targets), n))
        fits = isinstance(single, Tensor) and single.dim() > 0 and single.shape[0] in (n, length_of(targets))
        if fits:  # of the size of the terms, not of a mean that may be small; one ignored among 10,000 is to be seen
            tolerance = 1e-5 if mean.dtype in (torch.float32, torch.float64) else 2e-2
            allowed = tolerance * float(single.detach().double().abs().mean().nan_to_num(posinf=0.0))
            fits = torch.allclose(single.double().mean(), mean.double(), rtol=0, atol=allowed, equal_nan=True)
        if not fits:
            self._single, self._proven = None, True
            raise LossMisjudgedError


def _pair_of_classes(call: LossCall) -> tuple[Tensor, Tensor] | None:
    """Two classes to exchange among the targets of a call, of which one at least is there; None where there is none."""
    known = call.target.shape == call.counted.shape and not (call.name in CLASSES and call.target.is_floating_point())
    classes = torch.unique(call.target[call.counted]) if known else call.target[:0]
    if not len(classes):
        return None
    a, b = classes[0], classes[-1]
    if len(classes) == 1:  # another one, which a loss may leave out
        last = call.input.shape[1 if call.input.dim() > 1 else 0] - 1 if call.name in CLASSES else 0
        b = a + 1 if a < last else a - 1 if call.name in CLASSES else 1 - a
    return a, b


def _has_several_classes(call: LossCall) -> bool:
    return len(torch.unique(call.target[call.counted])) > 1


def _exchanged(targets: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Targets with two classes exchanged."""
    a, b = a.to(targets.dtype), b.to(targets.dtype)
    return torch.where(targets == a, b, torch.where(targets == b, a, targets))


def _are(tensor: Tensor, targets: Tensor) -> bool:
    """Whether a tensor holds these targets, shape (n,), in any shape or type."""
    return tensor.numel() == len(targets) and not tensor.is_complex() and bool((tensor.reshape(-1) == targets).all())


def _same_scores(scores: Sequence[Tensor], several: bool) -> bool:
    first, second = scores
    return torch.allclose(first, second, equal_nan=True) if first.shape == second.shape else not several


class _ClassWeights:
    """The denominator of cross-entropy and NLL: the weight of each target's class, 0 where it is ignored."""

    def __init__(self, weight: Tensor | None, ignore_index: int) -> None:
        self.weight, self.ignore_index = weight, ignore_index

    @classmethod
    def of(cls, loss: Callable[..., Any] | None) -> _ClassWeights | None:
        """Read weight and ignored index off a loss of torch's own; None for any other."""
        if type(loss) in (nn.CrossEntropyLoss, nn.NLLLoss):
            return cls(loss.weight, loss.ignore_index)  # type: ignore[union-attr]
        if loss in (F.cross_entropy, F.nll_loss):
            return cls(None, -100)
        if isinstance(loss, partial) and loss.func in (F.cross_entropy, F.nll_loss) and not loss.args:
            return cls(loss.keywords.get("weight"), loss.keywords.get("ignore_index", -100))
        return None

    def apply_to(self, targets: Any) -> bool:
        """Whether the targets are classes (of probabilities torch takes the plain mean)."""
        return isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() > 0

    def __call__(self, targets: Tensor) -> Tensor:
        """Weight of each target, in the shape of the targets."""
        valid = targets != self.ignore_index
        weights = valid.double()
        if self.weight is not None:
            weights = weights * self.weight.to(targets.device, torch.float64)[torch.where(valid, targets, 0)]
        return weights


def _per_sample(loss: Callable[..., Any]) -> Callable[..., Any] | None:
    """The same loss with reduction="none"; None where it has no such knob."""
    if isinstance(loss, nn.Module):
        if not hasattr(loss, "reduction"):
            return None
        single: Any = copy.copy(loss)
        single.reduction = "none"
        return cast(Callable[..., Any], single)
    try:
        has_knob = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return None
    return partial(loss, reduction="none") if has_knob else None


def _doubled(loss: Any) -> Any:
    """A loss whose tensors, of a module or of a partial's arguments, are float64; any other as it is."""
    if isinstance(loss, nn.Module):
        return copy.deepcopy(loss).double()
    if isinstance(loss, partial):
        args, keywords = map_tensors((list(loss.args), loss.keywords), to_double)
        return partial(loss.func, *args, **keywords)
    return loss


def _declared_reduction(loss: Callable[..., Any] | None) -> str | None:
    """What a loss says of itself: the `reduction` of a module, or the default of the argument of that name."""
    if isinstance(loss, nn.Module):
        return getattr(loss, "reduction", None)
    try:
        default = inspect.signature(loss).parameters["reduction"].default if loss else None
    except (TypeError, ValueError, KeyError):
        return None
    return default if isinstance(default, str) else None


def length_of(targets: Any) -> int | None:
    """How many targets there are, which need not be one a sample."""
    return int(targets.shape[0]) if isinstance(targets, Tensor) and targets.dim() else None


def _means(values: Tensor, n: int) -> Measured:
    """Average (m, ...) to (m,); of m targets that are not one a sample, numerators and weights."""
    means = values if values.dim() == 1 else values.flatten(1).double().mean(1)
    return means if len(means) == n else by_sample(means, torch.ones_like(means), n)


def by_sample(numerators: Tensor, weights: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Sum terms (m, ...) to one a sample, (n,); to one of the whole batch, (), where they cannot be told apart."""
    if n and len(numerators) % n == 0:
        return numerators.reshape(n, -1).double().sum(1), weights.reshape(n, -1).double().sum(1)
    return numerators.double().sum(), weights.double().sum()


def _own_loss(outputs: Any) -> Any:
    if isinstance(outputs, Mapping) and "loss" in outputs:
        return outputs["loss"]
    return getattr(outputs, "loss", outputs)


def logits(outputs: Any) -> Any:
    """What loss and metrics look at: ``outputs.logits`` or ``outputs["logits"]`` where there are some, else outputs."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    return getattr(outputs, "logits", outputs)


def with_gradients(loss: Loss, measure: Callable[[], StepValues]) -> StepValues:
    """Measure a batch; a loss that differentiates the network by its inputs does so though nobody asked for gradients.

    Such a loss (of a differential equation, say) raises where gradients are disabled. It is then known, and measured
    with gradients enabled from the start of a pass, so that what is drawn at random is drawn once.

    Raises
    ------
    LossMisjudgedError
        The first time.
    """
    if torch.is_grad_enabled():
        return measure()
    if not loss.by_inputs:
        try:
            return measure()
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            loss.by_inputs = True
            raise LossMisjudgedError from None
    with torch.inference_mode(False), torch.enable_grad():
        n, values = measure()
    return n, {name: map_tensors(value, torch.Tensor.detach) for name, value in values.items()}


def name_of(function: Any) -> str:
    """The name of a function, a partial or a callable object."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))
