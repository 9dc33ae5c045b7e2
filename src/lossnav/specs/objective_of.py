"""From a SPEC of the command line to an objective: ``file.py:name``, ``package.module:name``, ``zoo:name``."""

from __future__ import annotations

import builtins
import copy
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lossnav import checkpoints
from lossnav._utils.validation import described
from lossnav.checkpoints import weights
from lossnav.errors import DeviceError, LossnavError, SpecError
from lossnav.objective.modes import Mode, by_default_on, default_mode
from lossnav.objective.objective import Objective
from lossnav.trajectory.recorder import Trajectory


def load_objective(
    spec: str,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    missing_buffers: weights.Missing = "refuse",
    mode: Mode | None = None,
    params: str | Sequence[str] | None = None,
    device: str | None = None,
) -> Objective:
    """Build the objective that a SPEC names.

    Parameters
    ----------
    spec : str
        ``file.py:name`` or ``package.module:name``, where the name is an `Objective` or a function without arguments
        that returns one; or ``zoo:name``, a name that `zoo.recipe` knows (``zoo:notebook-digits``,
        ``zoo:resnet56-noshort``). The code of a file is run: name only files you trust.
    checkpoint : path, optional
        Weights to centre the objective at; needed for the zoo.
    data_root : path, optional
        Folder of the zoo's data.
    missing_buffers : "refuse" or "keep"
        What to do if the checkpoint lacks buffers of the model, such as running statistics: ``missing`` of
        `Objective.at`.
    mode : "eval" or "train", optional
        Mode of the objective, unless its code sets it (see `Objective`).
    params : str or sequence of str, optional
        Parameters that move, instead of those of the SPEC: ``params`` of `Objective`.
    device : str, optional
        Device, unless the SPEC sets it: ``device`` of `Objective`.

    Raises
    ------
    SpecError
        If the SPEC does not name an objective.
    DeviceError
        If the device does not exist, or the SPEC makes its objective on another.
    CheckpointError
        If the checkpoint cannot be read or does not fit.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise SpecError(f"{spec!r} is not a SPEC. Use file.py:name, package.module:name or zoo:notebook-digits.")
    with by_default_on(device), default_mode(mode):
        value = _of_zoo(name, checkpoint, data_root, missing_buffers) if place == "zoo" else _of_code(place, name, spec)
    if device is not None and not _is_on(value.device, device):
        raise DeviceError(
            f"{spec} makes its objective on {value.device}, not on {device}: it sets a device, existed before, or is "
            "a function, which uses the device of its parameters. Leave out --device (device=), or change the SPEC."
        )
    if mode is not None and value.mode != mode:
        raise SpecError(
            f"{spec} is an objective in {value.mode} mode, but {mode} mode was requested. Let {name} be a function "
            "that makes it, without mode=."
        )
    if place != "zoo":
        value = value.at(checkpoint, missing_buffers) if checkpoint is not None else copy.copy(value)
    value = value if params is None else value.moving(params)
    buffers = None if missing_buffers == "refuse" else missing_buffers
    options = {"missing_buffers": buffers, "mode": mode, "device": device, "params": params}
    value.origin = _origin(spec, checkpoint, data_root, options)
    return value


def _of_code(place: str, name: str, spec: str) -> Objective:
    """Return the objective that a file or module defines."""
    with _import_path(place):
        value = getattr(_import(place), name, None)
        if value is None:
            raise SpecError(
                f"{place} has no {name!r}. Define {name} = lossnav.Objective(...) there, or a function that returns it."
            )
        if callable(value) and not isinstance(value, Objective | nn.Module):
            value = _call(value, spec)
    if not isinstance(value, Objective):
        raise SpecError(f"{spec} is a {type(value).__name__}, not an Objective. Return lossnav.Objective(...) from it.")
    return value


def _is_on(device: torch.device, asked: str) -> bool:
    wanted = torch.device(asked)
    return device.type == wanted.type and wanted.index in (None, device.index or 0)


def rebuild(origin: Mapping[str, Any], population: int | None, samples: int | None, seed: int | None) -> Objective:
    """Build an objective from its ``origin``, including its subset if it had one (of `population` samples)."""
    arguments: dict[str, Any] = dict(origin)
    view = arguments.pop("view", None)
    objective = load_objective(**arguments)
    if view is not None:
        objective = _recentered(objective, view)
        objective.origin = {**(objective.origin or {}), "view": view}
    if population is None or objective.population is not None:
        return objective
    assert samples is not None and seed is not None
    return objective.subset(samples, seed)


def _recentered(objective: Objective, description: Mapping[str, Any]) -> Objective:
    """Return the objective at the centre of a view with this description."""
    if "pca" not in description.get("kinds", ()):
        return objective
    return at_the_end(objective, Trajectory.open(description["trajectory"]), description["missing_buffers"])


def at_the_end(objective: Objective, run: Trajectory, missing_buffers: weights.Missing) -> Objective:
    """Return the objective at the last snapshot of a run, where the directions start."""
    there = objective.at(run.state(-1), missing_buffers)
    there.origin = objective.origin
    return there


def _origin(spec: str, checkpoint: Any, data_root: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `load_objective` that build the same objective from any folder of this machine."""
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        spec = f"{Path(place).expanduser().resolve()}:{name}"
    # absolute, without resolving links: an index may be a link beside links to its shards
    files = (None if path is None else os.path.abspath(Path(path).expanduser()) for path in (checkpoint, data_root))
    made: dict[str, Any] = dict(zip(("spec", "checkpoint", "data_root"), (spec, *files), strict=True))
    return made | {
        option: value if isinstance(value, str) else list(value)
        for option, value in options.items()
        if value is not None
    }


def _call(function: Any, spec: str) -> Any:
    """Call a function of the user without arguments, unless it is known to return something else."""
    written = inspect.unwrap(function.func if isinstance(function, partial) else function)
    if not (inspect.isfunction(written) or inspect.ismethod(written)) or _makes_something_else(written):
        raise SpecError(
            f"{spec} is {described(function)} that makes no Objective, and is not called. Name a function written in "
            "Python that does: def objective(): return lossnav.Objective(...)."
        )
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise SpecError(f"{spec} cannot be called without arguments: {error}. Give each argument a default.") from None
    return function()


def _makes_something_else(function: Any) -> bool:
    """Return whether the annotation of a function excludes an objective."""
    said = getattr(function, "__annotations__", {})
    if "return" not in said:
        return False
    made = said["return"]
    if isinstance(made, str):
        return made in ("None", *(name for name, value in vars(builtins).items() if isinstance(value, type)))
    return made is None or (isinstance(made, type) and made is not object and not issubclass(made, Objective))


def _of_zoo(name: str, checkpoint: Any, data_root: Any, missing_buffers: weights.Missing) -> Objective:
    from lossnav import zoo

    recipe = zoo.recipe(name)
    if checkpoint is None:
        raise SpecError(
            f"zoo:{name} needs the weights of a trained network. Make them with: "
            f"lossnav train zoo:{name} -o {name}.safetensors, then add --checkpoint {name}.safetensors"
        )
    model = recipe.model()
    checkpoints.load_into(model, checkpoint, missing_buffers)
    return recipe.objective(model, recipe.load_data(data_root))


@contextmanager
def _import_path(place: str) -> Iterator[None]:
    """Make imports work as under `python file.py`: beside the file; for a package, from the working folder."""
    here = str(Path(place).expanduser().resolve().parent) if place.endswith(".py") else os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _import(place: str) -> ModuleType:
    """Import a module by its dotted name, or a file by its path."""
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise SpecError(f"There is no file {place}. Check the path before the colon.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return module
    except LossnavError:
        raise
    except Exception as error:
        raise SpecError(
            f"{place} cannot be imported: {type(error).__name__}: {error}. Run it with python to see the traceback."
        ) from error
