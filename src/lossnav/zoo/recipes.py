"""The zoo's objectives by name: which data, which network, how it is trained, on what it is measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from lossnav.errors import SpecError
from lossnav.objective import Objective
from lossnav.zoo.data import Data, load_data
from lossnav.zoo.models import NotebookCNN, notebook_cnn
from lossnav.zoo.training import History, train


@dataclass(frozen=True)
class Recipe:
    """A named network with its data and its training.

    Attributes
    ----------
    name : str
    data : str
        A data set that `load_data` knows.
    passes, batch_size : int
    order : "stored" or "shuffled"
    held_out : int or None
        The objective is measured on the first this many held-out samples; None: all.
    """

    name: str
    data: str
    passes: int
    batch_size: int
    order: Literal["stored", "shuffled"]
    held_out: int | None

    def load_data(self, root: str | os.PathLike[str] | None = None) -> Data:
        """Load the recipe's data."""
        return load_data(self.data, root)

    def model(self, seed: int = 0) -> NotebookCNN:
        """Build the network, untrained."""
        return notebook_cnn(seed)

    def train(self, model: NotebookCNN, data: Data, **options: Any) -> History:
        """Train in place; options override the recipe's."""
        mine = {"passes": self.passes, "batch_size": self.batch_size, "order": self.order, "held_out": self.held_out}
        return train(model, data, **(mine | {key: value for key, value in options.items() if value is not None}))

    def objective(self, model: NotebookCNN, data: Data) -> Objective:
        """Make the objective: cross-entropy and accuracy on the held-out samples."""
        x, y = (part[: self.held_out] for part in data.test)
        return Objective(model.eval(), "cross_entropy", (x, y), metrics=["accuracy"])


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # 56 batches of 25: as many passes as reach 95 % on held-out digits, in about two seconds
        Recipe("notebook-digits", "digits", passes=20, batch_size=25, order="shuffled", held_out=None),
        # the seed notebook itself
        Recipe("notebook-mnist", "mnist", passes=10, batch_size=1000, order="stored", held_out=1000),
    )
}


def recipe(name: str) -> Recipe:
    """Look a recipe up by its name.

    Raises
    ------
    SpecError
        If there is none.
    """
    if name not in RECIPES:
        raise SpecError(f"The zoo has no {name!r}. Use {' or '.join(f'zoo:{known}' for known in RECIPES)}.")
    return RECIPES[name]
