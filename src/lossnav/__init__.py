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

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from lossnav import checkpoints, curvature, directions, errors, params, recording, zoo
    from lossnav import plots as plot
    from lossnav.acceleration import Plan
    from lossnav.charts import Chart, Line, Plane, RescaledBilinear, RescaledLine, Volume
    from lossnav.contrasts import difference
    from lossnav.corrections import control_variate
    from lossnav.engines import Engine, Local, Ray
    from lossnav.ensembles import ensemble
    from lossnav.errors import Interrupted, LossnavError
    from lossnav.evaluation import estimate, evaluate, stream
    from lossnav.explorer import explore
    from lossnav.exports import export
    from lossnav.flatness import sharpness
    from lossnav.groups import open_spectrum, open_trajectory
    from lossnav.intervals import interval
    from lossnav.objective import Objective
    from lossnav.projection import evaluate_trajectory, project
    from lossnav.reports import report
    from lossnav.resuming import resume
    from lossnav.samplers import Adaptive, Grid, Points, Sampler
    from lossnav.subsets import evaluate_subset
    from lossnav.surface import open_surface as open
    from lossnav.surface import save_surface as save
    from lossnav.trajectory import Trajectory

# name -> (module, attribute); no attribute means the module itself. Grouped by noun.
_LAZY: dict[str, tuple[str, str | None]] = {
    "params": ("lossnav.params", None),
    "Objective": ("lossnav.objective", "Objective"),
    "directions": ("lossnav.directions", None),
    "curvature": ("lossnav.curvature", None),
    "sharpness": ("lossnav.flatness", "sharpness"),
    "Chart": ("lossnav.charts", "Chart"),
    "Line": ("lossnav.charts", "Line"),
    "Plane": ("lossnav.charts", "Plane"),
    "Volume": ("lossnav.charts", "Volume"),
    "RescaledLine": ("lossnav.charts", "RescaledLine"),
    "RescaledBilinear": ("lossnav.charts", "RescaledBilinear"),
    "Sampler": ("lossnav.samplers", "Sampler"),
    "Grid": ("lossnav.samplers", "Grid"),
    "Adaptive": ("lossnav.samplers", "Adaptive"),
    "Points": ("lossnav.samplers", "Points"),
    "Engine": ("lossnav.engines", "Engine"),
    "Local": ("lossnav.engines", "Local"),
    "Ray": ("lossnav.engines", "Ray"),
    "Plan": ("lossnav.acceleration", "Plan"),
    "estimate": ("lossnav.evaluation", "estimate"),
    "evaluate": ("lossnav.evaluation", "evaluate"),
    "stream": ("lossnav.evaluation", "stream"),
    "resume": ("lossnav.resuming", "resume"),
    "ensemble": ("lossnav.ensembles", "ensemble"),
    "control_variate": ("lossnav.corrections", "control_variate"),
    "evaluate_subset": ("lossnav.subsets", "evaluate_subset"),
    "interval": ("lossnav.intervals", "interval"),
    "difference": ("lossnav.contrasts", "difference"),
    "Trajectory": ("lossnav.trajectory", "Trajectory"),
    "project": ("lossnav.projection", "project"),
    "evaluate_trajectory": ("lossnav.projection", "evaluate_trajectory"),
    "open_trajectory": ("lossnav.groups", "open_trajectory"),
    "open_spectrum": ("lossnav.groups", "open_spectrum"),
    "recording": ("lossnav.recording", None),
    "report": ("lossnav.reports", "report"),
    "open": ("lossnav.surface", "open_surface"),
    "save": ("lossnav.surface", "save_surface"),
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
    "Ray",
    "RescaledBilinear",
    "RescaledLine",
    "Sampler",
    "Trajectory",
    "Volume",
    "__version__",
    "checkpoints",
    "control_variate",
    "curvature",
    "difference",
    "directions",
    "ensemble",
    "errors",
    "estimate",
    "evaluate",
    "evaluate_subset",
    "evaluate_trajectory",
    "explore",
    "export",
    "interval",
    "open",
    "open_spectrum",
    "open_trajectory",
    "params",
    "plot",
    "project",
    "recording",
    "report",
    "resume",
    "save",
    "sharpness",
    "stream",
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
