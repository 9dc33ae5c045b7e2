"""Training: Adam as in the seed notebook, or SGD as in Li et al. 2018; reports held-out accuracy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav.errors import DataError, Interrupted, OptionError
from lossnav.zoo.augmentation import crop_and_flip
from lossnav.zoo.data import Data
from lossnav.zoo.unfinished import Unfinished

_SAY_EVERY = 5.0  # seconds, as the notebook's throttle
_SHARE = 20  # and at least so many times as long as taking the accuracy takes


@dataclass
class History:
    """Record of a training.

    Attributes
    ----------
    accuracy : list of (step, fraction)
        Held-out accuracies; the last is after the last step.
    loss : list of float
        Mean training loss of each pass (nat).
    seconds : float
        Duration of this call.
    """

    accuracy: list[tuple[int, float]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: float = math.nan


def train(
    model: nn.Module,
    data: Data,
    *,
    passes: int = 10,
    batch_size: int = 1000,
    lr: float = 1e-3,
    optimizer: Literal["adam", "sgd"] = "adam",
    weight_decay: float = 0.0,
    drops: Sequence[float] = (),
    augment: bool = False,
    order: Literal["stored", "shuffled"] = "stored",
    held_out: int | None = 1000,
    seed: int = 0,
    keep: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> History:
    """Train a classifier in place with cross-entropy.

    Parameters
    ----------
    model : nn.Module
        Changed in place, on its device; its mode is restored. After Ctrl-C it has the weights reached so far.
    data : Data
    passes : int
        Passes over the training samples (epochs).
    batch_size : int
        The last batch of a pass may be shorter.
    lr : float
        Initial learning rate; the default is that of Flux's Adam.
    optimizer : "adam" or "sgd"
        SGD has Nesterov momentum 0.9.
    weight_decay : float
        Of all parameters.
    drops : sequence of float
        Fractions of all steps after which `lr` is divided by ten; see `learning_rate`.
    augment : bool
        Whether images are cropped and flipped at random in every pass; see `crop_and_flip`.
    order : "stored" or "shuffled"
        Order of the batches: as stored (the notebook's), or drawn in every pass.
    held_out : int or None
        Number of held-out samples for the accuracy, from the first on; None: all.
    seed : int
        Of order and augmentation; the global random state is not changed.
    keep : path, optional
        A .safetensors file for the state after each pass. If it exists, the same training is resumed from it, and ends
        at the same weights.
    progress : bool or None
        True: a bar with ETA, and the held-out accuracy at most every 5 s. None: on a terminal.

    Returns
    -------
    History

    Raises
    ------
    OptionError, DataError
    CheckpointMismatchError
        If `keep` contains another training.
    Interrupted
        After Ctrl-C or SIGTERM: the first stops after the current batch, the second at once.
    """
    if order not in ("stored", "shuffled"):
        raise OptionError(f"order must be 'stored' or 'shuffled', got {order!r}.")
    if optimizer not in ("adam", "sgd"):
        raise OptionError(f"optimizer must be 'adam' or 'sgd', got {optimizer!r}.")
    if passes < 1 or batch_size < 1 or not lr > 0:
        raise OptionError(f"passes, batch_size and lr must be positive, got {passes}, {batch_size} and {lr}.")
    if not weight_decay >= 0 or any(not 0 < drop < 1 for drop in drops):
        raise OptionError(
            f"weight_decay must be 0 or more and drops between 0 and 1, got {weight_decay} and {tuple(drops)}. "
            "Use 0.0005 and (0.5, 0.75)."
        )
    if not len(data.train[0]):
        raise DataError("There are no training samples. Pass data with at least one.")
    device = next(model.parameters()).device
    x, y = (part.to(device) for part in data.train)
    stepper: torch.optim.Optimizer
    if optimizer == "adam":
        stepper = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    else:
        stepper = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    history = History()
    settings = (passes, batch_size, lr, optimizer, weight_decay, tuple(drops), augment, order, seed, len(x))
    kept = None if keep is None else Unfinished(keep, settings, model, stepper, generator, history)
    done = 0 if kept is None else kept.load()
    was_training = model.training
    steps_a_pass = math.ceil(len(x) / batch_size)
    steps = passes * steps_a_pass
    step = done * steps_a_pass
    said = started = time.monotonic()
    patience = _SAY_EVERY
    try:
        with Progress("train", steps - step, "batches", progress) as bar, StopRequests() as stop:
            for _ in range(done, passes):
                model.train()
                ordered = torch.randperm(len(x), generator=generator) if order == "shuffled" else torch.arange(len(x))
                total = 0.0
                for chosen in torch.split(ordered.to(device), batch_size):
                    for group in stepper.param_groups:
                        group["lr"] = learning_rate(step, steps, lr, drops)
                    images = crop_and_flip(x[chosen], generator, black=data.black) if augment else x[chosen]
                    loss = F.cross_entropy(model(images), y[chosen])
                    stepper.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    stepper.step()
                    total += loss.item() * len(chosen)
                    step += 1
                    bar.advance()
                    _heed(stop, step, steps)
                    if time.monotonic() - said > patience:
                        said = time.monotonic()
                        history.accuracy.append((step, accuracy(model, data, held_out)))
                        patience = max(_SAY_EVERY, _SHARE * (time.monotonic() - said))
                        bar.say(f"held-out accuracy {history.accuracy[-1][1]:.3f}")
                history.loss.append(total / len(x))
                if kept is not None:
                    kept.save()
            history.accuracy.append((step, accuracy(model, data, held_out)))
            if bar.seconds > 1:
                bar.say(f"held-out accuracy {history.accuracy[-1][1]:.3f} after {passes} passes")
            _heed(stop, step, steps)
    finally:
        model.train(was_training)
        history.seconds = time.monotonic() - started
    return history


def _heed(stop: StopRequests, step: int, steps: int) -> None:
    if stop.signal is not None:
        words = f"Stopped after {step:,} of {steps:,} batches; the model holds what was learnt so far."
        raise Interrupted(words, signal=stop.signal)


def learning_rate(step: int, steps: int, lr: float, drops: Sequence[float]) -> float:
    """Return the learning rate of a step: `lr`, divided by ten for each past one of the `drops`.

    A drop is a fraction of all steps, so that trainings of all lengths drop at the same fractions.

    Examples
    --------
    >>> [learning_rate(epoch, 300, 0.1, (150 / 300, 225 / 300, 275 / 300)) for epoch in (149, 150, 225, 299)]
    [0.1, 0.01, 0.001, 0.0001]
    """
    return lr / 10.0 ** sum(step >= round(drop * steps) for drop in drops)


def accuracy(model: nn.Module, data: Data, held_out: int | None = None) -> float:
    """Fraction of the first `held_out` held-out samples (all by default) that the model classifies correctly."""
    x, y = (part[:held_out] for part in data.test)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            guesses = [model(images.to(device)).argmax(1).cpu() for images in torch.split(x, 500)]
    finally:
        model.train(was_training)
    return int((torch.cat(guesses) == y).sum()) / len(y)
