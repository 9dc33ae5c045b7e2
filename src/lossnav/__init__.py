"""Navigate the loss space of neural networks.

One sentence: evaluate an *objective* on a *chart*, at the points a *sampler* asks for, with an *engine*;
get a *surface*.

>>> import lossnav as ln
>>> "evaluate" in dir(ln)
True

Importing this module loads neither torch nor xarray nor a plotting library; each name arrives when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lossnav._version import __version__

if TYPE_CHECKING:
    from lossnav import checkpoints, curvature, directions, errors, params, zoo
    from lossnav import plots as plot
    from lossnav.acceleration import Plan
    from lossnav.charts import (
        BezierCurve,
        Chart,
        Line,
        Plane,
        PolygonalChain,
        RescaledBilinear,
        RescaledLine,
        Simplex,
        Volume,
    )
    from lossnav.engines import Engine, Local, Ray
    from lossnav.errors import Interrupted, LossnavError
    from lossnav.evaluation.connect import connect
    from lossnav.evaluation.connection import open_connection
    from lossnav.evaluation.curvature import evaluate_curvature
    from lossnav.evaluation.ensemble import ensemble
    from lossnav.evaluation.estimate import estimate
    from lossnav.evaluation.evaluate import evaluate, stream
    from lossnav.evaluation.resume import resume
    from lossnav.evaluation.spectrum import spectrum
    from lossnav.evaluation.subset import evaluate_subset
    from lossnav.evaluation.trajectory import evaluate_trajectory, project
    from lossnav.evaluation.tree import tree
    from lossnav.explorer import explore
    from lossnav.exports import export
    from lossnav.objective.objective import Objective
    from lossnav.reports.report import report
    from lossnav.samplers import Adaptive, Grid, Points, Sampler
    from lossnav.sharpness_measures import sharpness
    from lossnav.surface.barrier import barrier
    from lossnav.surface.control_variate import control_variate
    from lossnav.surface.difference import difference
    from lossnav.surface.groups import open_spectrum, open_trajectory
    from lossnav.surface.intervals import interval
    from lossnav.surface.minima_tree import open_tree
    from lossnav.surface.zarr_io import open_surface as open
    from lossnav.surface.zarr_io import save_surface as save
    from lossnav.symmetry import align, symmetries
    from lossnav.symmetry.repair import repair
    from lossnav.symmetry.repair_data import RepairData
    from lossnav.trajectory import callbacks as recording
    from lossnav.trajectory.recorder import Trajectory

# name -> (module, attribute); no attribute means the module itself. Grouped by noun.
_LAZY: dict[str, tuple[str, str | None]] = {
    "params": ("lossnav.params", None),
    "Objective": ("lossnav.objective.objective", "Objective"),
    "directions": ("lossnav.directions", None),
    "curvature": ("lossnav.curvature", None),
    "sharpness": ("lossnav.sharpness_measures", "sharpness"),
    "Chart": ("lossnav.charts", "Chart"),
    "Line": ("lossnav.charts", "Line"),
    "Plane": ("lossnav.charts", "Plane"),
    "Volume": ("lossnav.charts", "Volume"),
    "RescaledLine": ("lossnav.charts", "RescaledLine"),
    "RescaledBilinear": ("lossnav.charts", "RescaledBilinear"),
    "BezierCurve": ("lossnav.charts", "BezierCurve"),
    "PolygonalChain": ("lossnav.charts", "PolygonalChain"),
    "Simplex": ("lossnav.charts", "Simplex"),
    "Sampler": ("lossnav.samplers", "Sampler"),
    "Grid": ("lossnav.samplers", "Grid"),
    "Adaptive": ("lossnav.samplers", "Adaptive"),
    "Points": ("lossnav.samplers", "Points"),
    "Engine": ("lossnav.engines", "Engine"),
    "Local": ("lossnav.engines", "Local"),
    "Ray": ("lossnav.engines", "Ray"),
    "Plan": ("lossnav.acceleration", "Plan"),
    "symmetries": ("lossnav.symmetry", "symmetries"),
    "align": ("lossnav.symmetry", "align"),
    "repair": ("lossnav.symmetry.repair", "repair"),
    "RepairData": ("lossnav.symmetry.repair_data", "RepairData"),
    "connect": ("lossnav.evaluation.connect", "connect"),
    "open_connection": ("lossnav.evaluation.connection", "open_connection"),
    "tree": ("lossnav.evaluation.tree", "tree"),
    "open_tree": ("lossnav.surface.minima_tree", "open_tree"),
    "spectrum": ("lossnav.evaluation.spectrum", "spectrum"),
    "evaluate_curvature": ("lossnav.evaluation.curvature", "evaluate_curvature"),
    "estimate": ("lossnav.evaluation.estimate", "estimate"),
    "evaluate": ("lossnav.evaluation.evaluate", "evaluate"),
    "stream": ("lossnav.evaluation.evaluate", "stream"),
    "resume": ("lossnav.evaluation.resume", "resume"),
    "ensemble": ("lossnav.evaluation.ensemble", "ensemble"),
    "control_variate": ("lossnav.surface.control_variate", "control_variate"),
    "evaluate_subset": ("lossnav.evaluation.subset", "evaluate_subset"),
    "barrier": ("lossnav.surface.barrier", "barrier"),
    "interval": ("lossnav.surface.intervals", "interval"),
    "difference": ("lossnav.surface.difference", "difference"),
    "Trajectory": ("lossnav.trajectory.recorder", "Trajectory"),
    "project": ("lossnav.evaluation.trajectory", "project"),
    "evaluate_trajectory": ("lossnav.evaluation.trajectory", "evaluate_trajectory"),
    "open_trajectory": ("lossnav.surface.groups", "open_trajectory"),
    "open_spectrum": ("lossnav.surface.groups", "open_spectrum"),
    "recording": ("lossnav.trajectory.callbacks", None),
    "report": ("lossnav.reports.report", "report"),
    "open": ("lossnav.surface.zarr_io", "open_surface"),
    "save": ("lossnav.surface.zarr_io", "save_surface"),
    "plot": ("lossnav.plots", None),
    "explore": ("lossnav.explorer", "explore"),
    "export": ("lossnav.exports", "export"),
    "checkpoints": ("lossnav.checkpoints", None),
    "zoo": ("lossnav.zoo", None),
    "errors": ("lossnav.errors", None),
    "LossnavError": ("lossnav.errors", "LossnavError"),
    "Interrupted": ("lossnav.errors", "Interrupted"),
}

__all__ = [
    "Adaptive",
    "BezierCurve",
    "Chart",
    "Engine",
    "Grid",
    "Interrupted",
    "Line",
    "Local",
    "LossnavError",
    "Objective",
    "Plan",
    "Plane",
    "Points",
    "PolygonalChain",
    "Ray",
    "RepairData",
    "RescaledBilinear",
    "RescaledLine",
    "Sampler",
    "Simplex",
    "Trajectory",
    "Volume",
    "__version__",
    "align",
    "barrier",
    "checkpoints",
    "connect",
    "control_variate",
    "curvature",
    "difference",
    "directions",
    "ensemble",
    "errors",
    "estimate",
    "evaluate",
    "evaluate_curvature",
    "evaluate_subset",
    "evaluate_trajectory",
    "explore",
    "export",
    "interval",
    "open",
    "open_connection",
    "open_spectrum",
    "open_trajectory",
    "open_tree",
    "params",
    "plot",
    "project",
    "recording",
    "repair",
    "report",
    "resume",
    "save",
    "sharpness",
    "spectrum",
    "stream",
    "symmetries",
    "tree",
    "zoo",
]


def __getattr__(name: str) -> Any:
    try:
        module_name, attribute = _LAZY[name]
    except KeyError:
        raise AttributeError(f"module 'lossnav' has no attribute {name!r}") from None
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value  # the next look-up is direct
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
