"""Callbacks that record a `Trajectory` in Lightning and in Hugging Face's Trainer.

Both create the trajectory when training begins, count the steps of the optimizer, and close it at the end. Each needs
its extra: ``pip install "lossnav[lightning]"``, ``pip install "lossnav[transformers]"``.
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from lossnav.errors import MissingExtraError, OptionError
from lossnav.trajectory.recorder import Trajectory


def lightning_callback(store: str | os.PathLike[str], *, module: str = "", resume: bool = False, **options: Any) -> Any:
    """Return a callback that records a trajectory: ``Trainer(callbacks=[lightning_callback("run.trajectory")])``.

    A step is a batch after which the optimizer moved (with accumulated gradients, not every batch). Each snapshot
    stores the epoch and the loss that ``training_step`` returned. The process of rank 0 records; sharded models (FSDP)
    are not supported.

    Parameters
    ----------
    store : path
        See `Trajectory`.
    module : str
        The submodule of the LightningModule to record, such as ``"net"`` for ``self.net``: the model that is passed to
        the objective. By default the whole LightningModule.
    resume : bool
        Whether a training that continues from a checkpoint also continues the trajectory, from the checkpoint's step.
    **options
        ``every``, ``dtype``, ``params``, ``overwrite`` of `Trajectory`.

    Returns
    -------
    lightning.pytorch.Callback
        Its attribute ``trajectory`` is the `Trajectory`, None before training begins.

    Raises
    ------
    MissingExtraError
        If Lightning is not installed.
    OptionError
        When training begins, if the model has no submodule `module`.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise _missing("lightning", error) from error

    class Recording(_Recording, Callback):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            self._seen = trainer.global_step
            if trainer.is_global_zero:
                self.begin(_submodule(pl_module, module), trainer.global_step)

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

    A step is a step of the optimizer. Each snapshot stores the epoch (a fraction, as the Trainer counts), and no loss,
    because the Trainer does not pass it to callbacks. The first process records; sharded models (FSDP, ZeRO-3) are not
    supported.

    Parameters
    ----------
    store, module, resume, **options
        As in `lightning_callback`; use ``resume`` together with ``trainer.train(resume_from_checkpoint=...)``.

    Returns
    -------
    transformers.TrainerCallback
        Its attribute ``trajectory`` is the `Trajectory`, None before training begins.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    OptionError
        When training begins, if the model has no submodule `module`.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise _missing("transformers", error) from error

    class Recording(_Recording, TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
            if state.is_world_process_zero:
                self.begin(_submodule(model, module), state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if self.trajectory is not None:
                self.trajectory.step(epoch=state.epoch)

        def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            self.end()

    return Recording(store, resume, options)


class _Recording:
    """The part that both callbacks share: create the trajectory, and close it."""

    def __init__(self, store: str | os.PathLike[str], resume: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.store, self.resume, self.options = store, resume, options
        self.trajectory: Trajectory | None = None
        self._seen = 0

    def begin(self, model: nn.Module, step: int) -> None:
        resume = step if self.resume and step else False  # training from step 0 must not remove recorded snapshots
        self.trajectory = Trajectory(model, store=self.store, resume=resume, **self.options)

    def end(self) -> None:
        if self.trajectory is not None:
            self.trajectory.close()


def _missing(extra: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f'This callback needs {extra}, which is not installed: {error}. Try: pip install "lossnav[{extra}]"'
    )


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = ", ".join(child for child, _ in model.named_children())
        raise OptionError(f"The model has no submodule module={name!r}. Use one of {names}.") from None
