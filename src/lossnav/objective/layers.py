"""The layers of a model that matter to a reader of its surface: those with statistics, and those that rescale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lossnav.objective.batch_norm import BATCH_NORMS

_RECTIFIERS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU)  # f(c x) = c f(x) for every c > 0
_STATISTICS = ("running_mean", "running_var")


def describe_layers(model: nn.Module, roles: Mapping[str, str]) -> dict[str, Any]:
    """Count the layers that influence how a picture of the loss is read.

    Parameters
    ----------
    model : nn.Module
    roles : mapping of str to {"weight", "bias", "norm"}
        The roles of the parameters that move.

    Returns
    -------
    dict of str to int
        ``batch_norms``: BatchNorm layers with running statistics. ``batch_statistics``: those without, which use the
        statistics of each batch. ``running_statistics``: other layers with running statistics (InstanceNorm that tracks
        them, FrozenBatchNorm, custom layers). ``norm_tensors``: parameters of normalisation layers that move.
        ``weights``: weights of two or more dimensions that move. ``rectifiers``: modules such as ReLU; calls of F.relu
        are not counted. ``own_buffers``, a dict with the number of ``tensors`` and the first ``names``: floating-point
        buffers of custom modules, which may be statistics of data or not.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
    >>> roles = {"0.weight": "weight", "1.weight": "norm", "3.weight": "weight"}
    >>> {name: n for name, n in describe_layers(net, roles).items() if n}
    {'batch_norms': 1, 'own_buffers': {'tensors': 0, 'names': []}, 'norm_tensors': 1, 'weights': 2, 'rectifiers': 1}
    """
    parameters = dict(model.named_parameters())
    modules = list(model.modules())
    batch = [module for module in modules if isinstance(module, BATCH_NORMS)]
    keeping = [module for module in batch if module.running_mean is not None]
    others = [module for module in modules if module not in batch and _keeps_statistics(module)]
    return {
        "batch_norms": len(keeping),
        "batch_statistics": len(batch) - len(keeping),
        "running_statistics": len(others),
        "own_buffers": _some_of_unknown_use(model),
        **count_roles(roles, parameters),
        "rectifiers": sum(isinstance(module, _RECTIFIERS) for module in modules),
    }


def count_roles(roles: Mapping[str, str], parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """Count the parameters that move, as `describe_layers` does.

    >>> import torch
    >>> count_roles({"w": "weight", "g": "norm"}, {"w": torch.ones(2, 2), "g": torch.ones(2)})
    {'norm_tensors': 1, 'weights': 1}
    """
    return {
        "norm_tensors": sum(role == "norm" for role in roles.values()),
        "weights": sum(role == "weight" and parameters[name].dim() > 1 for name, role in roles.items()),
    }


def _some_of_unknown_use(model: nn.Module) -> dict[str, Any]:
    """Floating-point buffers of custom modules: their number and first names."""
    names = [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if not type(module).__module__.startswith("torch.nn.") and not _keeps_statistics(module)
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    return {"tensors": len(names), "names": names[:3]}


def _keeps_statistics(module: nn.Module) -> bool:
    own = dict(module.named_buffers(recurse=False))
    return any(name in own for name in _STATISTICS)
