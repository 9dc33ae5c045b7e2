"""The header of a recorded trajectory: ``trajectory.json``, which describes the model and what was recorded of it.

Keys (docs/schema.md has the whole table): ``parameters`` are the parameters that every snapshot contains, with shape,
dtype and role; ``held`` the parameters that are frozen; ``kept`` the steps whose snapshots contain a frozen parameter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lossnav._utils.paths import (
    TRAJECTORY_HEADER,
    TRAJECTORY_SCHEMA,
    is_trajectory,
    not_written,
    write_whole,
)
from lossnav._version import __version__
from lossnav.errors import NotATrajectoryError, SchemaTooNewError
from lossnav.objective.roles import describe_parameters
from lossnav.params import Params

SCHEMA_VERSION = 1


def describe_model(model: nn.Module, names: Sequence[str], every: int, dtype: str | None) -> dict[str, Any]:
    """Return the header of a new trajectory that records the parameters `names` of a model."""
    parameters, persistent = dict(model.named_parameters()), set(model.state_dict(keep_vars=True))
    others = [name for name, tensor in parameters.items() if name not in names and tensor.is_floating_point()]
    roles, transposed = describe_parameters(model, [*names, *others])
    entries: dict[str, dict[str, Any]] = {
        name: {
            "shape": list(parameters[name].shape),
            "dtype": str(parameters[name].dtype).removeprefix("torch."),
            "role": roles[name],
        }
        for name in (*names, *others)
    }
    for name, groups in transposed.items():
        entries[name]["groups"] = groups
    return {
        "schema": TRAJECTORY_SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "lossnav_version": __version__,
        "torch_version": torch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": type(model).__name__,
        "every": every,
        "stored_dtype": dtype,
        "parameters": {name: entries[name] for name in names},
        "held": {name: entries[name] for name in others},
        "kept": {},
        "buffers": [name for name, _ in model.named_buffers() if name in persistent],
    }


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of the trajectory in a folder.

    Raises
    ------
    NotATrajectoryError
        If the folder holds no trajectory.
    SchemaTooNewError
        If a newer lossnav wrote it.
    """
    if not is_trajectory(path):
        raise NotATrajectoryError(
            f"{path} is no recorded trajectory. Pass a folder that was written by ln.Trajectory(model, store=...)."
        )
    header: dict[str, Any] = json.loads((path / TRAJECTORY_HEADER).read_text())
    if header["schema_version"] > SCHEMA_VERSION:
        raise SchemaTooNewError(
            f"{path} has schema version {header['schema_version']}, but this lossnav ({__version__}) reads versions up "
            f"to {SCHEMA_VERSION}. Upgrade with: pip install --upgrade lossnav"
        )
    for key in ("held", "kept"):
        header.setdefault(key, {})  # early headers lack both: every snapshot contained every parameter
    return header


def write_header(path: Path, header: Mapping[str, Any]) -> None:
    """Write the header, and make the folder where it does not exist."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise not_written(path, error) from error
    write_whole(path / TRAJECTORY_HEADER, json.dumps(header, indent=1))


def tensors_like(entries: Mapping[str, Mapping[str, Any]]) -> Params:
    """Return tensors without memory (device "meta") with the shapes and dtypes of some entries of a header."""
    return {
        name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for name, entry in entries.items()
    }
