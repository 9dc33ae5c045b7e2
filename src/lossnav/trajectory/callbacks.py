"""A `Trajectory` recorded by a training loop of somebody else's: callbacks for Lightning and Hugging Face's Trainer.

Both make the trajectory when training begins, count the steps of the optimizer, and close it at the end. Each needs its
extra: ``pip install "lossnav[lightning]"``, ``pip install "lossnav[transformers]"``.
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from lossnav.errors import MissingExtraError, OptionError
from lossnav.trajectory.trajectory import Trajectory


def lightning_callback(store: str | os.PathLike[str], *, module: str = "", resume: bool = False, **options: Any) -> Any:
    """Return a callback that records a trajectory: ``Trainer(callbacks=[lightning_callback("run.trajectory")])``.

    A step is a batch after which the optimizer moved (with accumulated gradients not every batch). Each is marked with
    the epoch and the loss that ``training_step`` returned. Recorded in the process of rank 0; sharded models (FSDP) are
    not supported.

    Parameters
    ----------
    store : path
        See `Trajectory`.
    module : str
        What part of the LightningModule to record, such as ``"net"`` for ``self.net``: the model as the objective knows
        it. By default all of it.
    resume : bool
        Whether a training that goes on from a checkpoint goes on with the trajectory too, from the checkpoint's step.
    **options
        ``every``, ``dtype``, ``params``, ``overwrite`` of `Trajectory`.

    Returns
    -------
    lightning.pytorch.Callback
        With an attribute ``trajectory``.

    Raises
    ------
    MissingExtraError
        If Lightning is not installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise _missing("lightning", error) from error

    class Recording(_Recording, Callback):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            self._seen = trainer.global_step
            if trainer.is_global_zero:
                self.begin(_part(pl_module, module), trainer.global_step)

        def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, outputs: Any, *batch: Any) -> None:
            if self.trajectory is None or trainer.global_step == self._seen:
                return
            self._seen = trainer.global_step
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self.trajectory.step(epoch=trainer.current_epoch, loss=loss)

        def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
            self.end()

    return Recording(store, resume, options)


def transformers_callback(
    store: str | os.PathLike[str], *, module: str = "", resume: bool = False, **options: Any
) -> Any:
    """Return a callback that records a trajectory: ``Trainer(callbacks=[transformers_callback("run.trajectory")])``.

    A step is one of the optimizer. Each is marked with the epoch (a fraction, as the Trainer counts); the Trainer tells
    callbacks no loss at a step. Recorded in the first process; sharded models (FSDP, ZeRO-3) are not supported.

    Parameters
    ----------
    store, module, resume, **options
        As in `lightning_callback`; ``resume`` goes with ``trainer.train(resume_from_checkpoint=...)``.

    Returns
    -------
    transformers.TrainerCallback
        With an attribute ``trajectory``.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise _missing("transformers", error) from error

    class Recording(_Recording, TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
            if state.is_world_process_zero:
                self.begin(_part(model, module), state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if self.trajectory is not None:
                self.trajectory.step(epoch=state.epoch)

        def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.end()

    return Recording(store, resume, options)


class _Recording:
    """What both callbacks do: begin, and end."""

    def __init__(self, store: str | os.PathLike[str], resume: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.store, self.resume, self.options = store, resume, options
        self.trajectory: Trajectory | None = None
        self._seen = 0

    def begin(self, model: nn.Module, step: int) -> None:
        goes_on = step if self.resume and step else False  # a training from the start replaces nothing unasked
        self.trajectory = Trajectory(model, store=self.store, resume=goes_on, **self.options)

    def end(self) -> None:
        if self.trajectory is not None:
            self.trajectory.close()


def _missing(extra: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f'This callback needs {extra}, which is not installed: {error}. Try: pip install "lossnav[{extra}]"'
    )


def _part(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = ", ".join(child for child, _ in model.named_children())
        raise OptionError(f"The model has no part module={name!r}. Its parts are {names}.") from None
