"""The zoo's recipes by name: data, network, training, and evaluation data."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from lossnav.errors import SpecError
from lossnav.objective.modes import resolve_device
from lossnav.objective.objective import Objective
from lossnav.zoo.data import Data, load_data
from lossnav.zoo.models import notebook_cnn
from lossnav.zoo.resnet import resnet
from lossnav.zoo.training import History, train
from lossnav.zoo.vgg import vgg9

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the public checkpoints have it
DROPS = (150 / 300, 225 / 300, 275 / 300)  # after which parts of a training Li et al. divide the step by ten

_CIFAR_HELD_OUT = 2000
_DEEP = 56  # layers from which a network without shortcuts starts with a smaller step
_RESNET = re.compile(r"resnet(?P<depth>\d+)(-wide(?P<width>\d+))?(?P<noshort>-noshort)?")


@dataclass(frozen=True)
class Recipe:
    """A named network with its data and its training.

    Attributes
    ----------
    name : str
    data : str
        Name of a data set, for `load_data`.
    build : callable
        ``build(seed)`` returns the network, untrained.
    training : mapping
        Arguments of `train`.
    held_out : int or None
        Number of held-out samples of the objective, from the first on; None: all.
    normalized : bool
        Whether images are normalised by `CIFAR_MEAN` and `CIFAR_STD`.
    label : str or None
        Name of the network in the objective; None: its class.
    """

    name: str
    data: str
    build: Callable[[int], nn.Module]
    training: Mapping[str, Any]
    held_out: int | None
    normalized: bool = False
    label: str | None = None

    def load_data(self, root: str | os.PathLike[str] | None = None, samples: int | None = None) -> Data:
        """Load the recipe's data in the form that the network takes, optionally only the first training samples."""
        return self.prepare(load_data(self.data, root).first(samples))

    def prepare(self, data: Data) -> Data:
        """Return the data in the form that the network takes."""
        return data.normalized(CIFAR_MEAN, CIFAR_STD) if self.normalized else data

    def model(self, seed: int = 0, device: str | torch.device | None = None) -> nn.Module:
        """Build the untrained network; channels-last, since a ResNet-20 then trains a sixth faster on the CPU.

        Raises
        ------
        DeviceError
            If the device does not exist.
        """
        made = self.build(seed)
        placed: nn.Module = made.to(resolve_device(device, made), memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed

    def train(self, model: nn.Module, data: Data, **options: Any) -> History:
        """Train in place; options override those of the recipe."""
        given = {key: value for key, value in options.items() if value is not None}
        return train(model, data, **({"held_out": self.held_out, **self.training} | given))

    def objective(self, model: nn.Module, data: Data) -> Objective:
        """Make the objective: cross-entropy and accuracy on the held-out samples."""
        x, y = (part[: self.held_out] for part in data.test)
        return self.measure(model, (x, y))

    def measure(self, model: nn.Module, pair: Any) -> Objective:
        """Make an objective of other samples: cross-entropy and accuracy on them."""
        made = Objective(model.eval(), "cross_entropy", pair, metrics=["accuracy"])
        made.name = self.label or made.name
        return made


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # 56 batches of 25: as many passes as reach 95 % on held-out digits, in about two seconds
        Recipe("notebook-digits", "digits", notebook_cnn, {"passes": 20, "batch_size": 25, "order": "shuffled"}, None),
        # the seed notebook itself
        Recipe("notebook-mnist", "mnist", notebook_cnn, {"passes": 10, "batch_size": 1000, "order": "stored"}, 1000),
    )
}

NAMES = (*RECIPES, "resnet56", "resnet20-noshort", "resnet56-wide2", "resnet110-wide4-noshort", "vgg9")  # examples


def recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    ``notebook-digits``, ``notebook-mnist``, ``vgg9``, or ``resnetD[-wideK][-noshort]``: a CIFAR ResNet of D = 6n + 2
    layers, with K times as many filters, without shortcuts. The last two are trained as in Li et al. 2018, section 6:
    SGD with Nesterov momentum 0.9, batches of 128, weight decay 0.0005, 300 passes with random crops and flips,
    learning rate 0.1 (0.01 for networks of 56 layers and more without shortcuts) divided by ten after 150, 225 and 275
    passes.

    Raises
    ------
    SpecError
        If there is none.
    """
    if name in RECIPES:
        return RECIPES[name]
    if name == "vgg9":
        return _cifar(name, vgg9, "VGG-9")
    if found := _RESNET.fullmatch(name):
        depth, width, skip = int(found["depth"]), int(found["width"] or 1), not found["noshort"]
        if (depth - 2) % 6 or depth < 8 or width < 1:
            raise SpecError(
                f"zoo:{name} does not exist: a ResNet has 6n + 2 layers. Use zoo:resnet20, 32, 44, 56 or 110."
            )
        label = f"ResNet-{depth}" + (f"-wide{width}" if width > 1 else "") + ("" if skip else "-noshort")
        build = partial(_resnet, depth, width, skip)
        return _cifar(name, build, label, lr=0.01 if depth >= _DEEP and not skip else 0.1)
    raise SpecError(f"The zoo has no {name!r}. Use {', '.join(f'zoo:{known}' for known in NAMES)}.")


def _resnet(depth: int, width: int, skip: bool, seed: int) -> nn.Module:
    return resnet(depth, width=width, skip=skip, seed=seed)


def _cifar(name: str, build: Callable[[int], nn.Module], label: str, lr: float = 0.1) -> Recipe:
    training = {"passes": 300, "batch_size": 128, "lr": lr, "optimizer": "sgd", "weight_decay": 5e-4}
    training |= {"drops": DROPS, "augment": True, "order": "shuffled"}
    return Recipe(name, "cifar10", build, training, _CIFAR_HELD_OUT, normalized=True, label=label)
