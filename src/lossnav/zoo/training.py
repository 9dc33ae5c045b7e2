"""The seed notebook's training: Adam, passes over batches, held-out accuracy now and then."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from lossnav.errors import DataError, OptionError
from lossnav.progress import Progress
from lossnav.zoo.data import Data

_SAY_EVERY = 5.0  # seconds, as the notebook's throttle


@dataclass
class History:
    """What was seen during a training.

    Attributes
    ----------
    accuracy : list of (step, fraction)
        Held-out accuracy whenever it was taken; the last is after the last step.
    loss : list of float
        Mean training loss of each pass (nat).
    seconds : float
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
    order: Literal["stored", "shuffled"] = "stored",
    held_out: int | None = 1000,
    seed: int = 0,
    progress: bool | None = None,
) -> History:
    """Train a classifier in place with Adam and cross-entropy, as the seed notebook does.

    Parameters
    ----------
    model : nn.Module
        Changed in place; its mode is as before afterwards. After Ctrl-C it holds what was learnt so far.
    data : Data
    passes : int
        Over the training samples.
    batch_size : int
        The last batch of a pass may be shorter.
    lr : float
        Adam's step; the default is Flux's.
    order : "stored" or "shuffled"
        The notebook takes the batches as they are stored; shuffled draws a new order each pass.
    held_out : int or None
        Accuracy is taken on the first this many held-out samples; None: all.
    seed : int
        Of the order; the global random state is not touched.
    progress : bool or None
        True: a bar with ETA, and the held-out accuracy at most every 5 s. None: on a terminal.

    Returns
    -------
    History

    Raises
    ------
    OptionError, DataError
    """
    if order not in ("stored", "shuffled"):
        raise OptionError(f"order={order!r} is unknown. Use 'stored' or 'shuffled'.")
    if passes < 1 or batch_size < 1 or not lr > 0:
        raise OptionError(
            f"passes={passes}, batch_size={batch_size}, lr={lr} must be positive. Use at least 1, 1 and >0."
        )
    x, y = data.train
    if not len(x):
        raise DataError("There are no training samples. Pass data with at least one.")
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    history = History()
    was_training = model.training
    steps_a_pass = math.ceil(len(x) / batch_size)
    said = started = time.monotonic()
    step = 0
    try:
        with Progress("train", passes * steps_a_pass, "batches", progress) as bar:
            for _ in range(passes):
                model.train()
                ordered = torch.randperm(len(x), generator=generator) if order == "shuffled" else torch.arange(len(x))
                total = 0.0
                for chosen in torch.split(ordered, batch_size):
                    loss = F.cross_entropy(model(x[chosen].to(device)), y[chosen].to(device))
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    total += loss.item() * len(chosen)
                    step += 1
                    bar.advance()
                    if time.monotonic() - said > _SAY_EVERY:
                        said = time.monotonic()
                        history.accuracy.append((step, accuracy(model, data, held_out)))
                        bar.say(f"held-out accuracy {history.accuracy[-1][1]:.3f}")
                history.loss.append(total / len(x))
            history.accuracy.append((step, accuracy(model, data, held_out)))
            if bar.seconds > 1:
                bar.say(f"held-out accuracy {history.accuracy[-1][1]:.3f} after {passes} passes")
    finally:
        model.train(was_training)
        history.seconds = time.monotonic() - started
    return history


def accuracy(model: nn.Module, data: Data, held_out: int | None = None) -> float:
    """Fraction of the first `held_out` held-out samples (all by default) that the model gets right."""
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
