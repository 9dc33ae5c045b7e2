"""The state of a training on disk between two passes; a resumed training ends at the same weights."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lossnav import checkpoints
from lossnav.errors import CheckpointMismatchError

if TYPE_CHECKING:
    from lossnav.zoo.training import History


class Unfinished:
    """The file of a training: weights, optimizer state, generator and history.

    Parameters
    ----------
    path : path
        A .safetensors file; no code in it is ever run.
    settings : tuple
        Plain values that identify a training, besides the names and shapes of the model.
    model, optimizer, generator, history
        Objects that are saved, and that `load` changes in place.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: tuple[Any, ...],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        history: History,
    ) -> None:
        self.path = Path(path).expanduser()
        self.model, self.optimizer, self.generator, self.history = model, optimizer, generator, history
        shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
        digest = hashlib.sha256(repr((settings, repr(model), shapes)).encode()).digest()
        self._settings = torch.tensor(list(digest), dtype=torch.uint8)

    def save(self) -> None:
        """Write the current state completely or not at all."""
        state: dict[str, Tensor] = {
            "settings": self._settings,
            "generator": self.generator.get_state(),
            "loss": torch.tensor(self.history.loss, dtype=torch.float64),
            "accuracy": torch.tensor(self.history.accuracy, dtype=torch.float64).reshape(-1, 2),
        }
        state |= {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for i, memory in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{i}/{name}": value for name, value in memory.items() if isinstance(value, Tensor)}
        checkpoints.save(state, self.path, overwrite=True)

    def load(self) -> int:
        """Restore the saved state, and return the number of finished passes: 0 if there is no file.

        Raises
        ------
        CheckpointMismatchError
            If the file belongs to another training.
        """
        if not self.path.is_file():
            return 0
        state = checkpoints.load(self.path)
        if not torch.equal(state.get("settings", torch.empty(0)), self._settings):
            raise CheckpointMismatchError(
                f"{self.path} is not a training with these settings and this model. Delete it, or restore the settings."
            )
        memory: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("optimizer/"):
                _, i, key = name.split("/", 2)
                memory.setdefault(int(i), {})[key] = tensor
        self.model.load_state_dict({name[6:]: part for name, part in state.items() if name.startswith("model/")})
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": memory, "param_groups": groups})
        self.generator.set_state(state["generator"])
        self.history.loss[:] = state["loss"].tolist()
        self.history.accuracy[:] = [(int(step), fraction) for step, fraction in state["accuracy"].tolist()]
        return len(self.history.loss)
