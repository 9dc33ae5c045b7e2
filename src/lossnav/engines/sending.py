"""Pickling a function together with the code of the user's own modules, so that other machines can run it."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav.engines.cluster import ray_module
from lossnav.errors import ClusterError

_STANDARD_LIBRARY = sysconfig.get_path("stdlib")


def pickled(function: Any) -> NDArray[np.uint8]:
    """Pickle a function together with the code of the user's own modules, which other machines need not have."""
    pickle = ray_module().cloudpickle
    modules = [module for module in list(sys.modules.values()) if _is_user_module(module)]
    try:
        for module in modules:
            pickle.register_pickle_by_value(module)
        text = pickle.dumps(function)
    except Exception:  # a module that cannot be pickled by value may be installed on the other machines
        for module in modules:
            pickle.unregister_pickle_by_value(module)
        modules = []
        try:
            text = pickle.dumps(function)
        except Exception as error:
            raise ClusterError(
                f"The objective cannot be sent: {type(error).__name__}: {error}. Remove locks, open files and handles "
                "from model, loss and data, or load the objective from a SPEC and use build='spec'."
            ) from error
    finally:
        for module in modules:
            pickle.unregister_pickle_by_value(module)
    return np.frombuffer(text, np.uint8)


def _is_user_module(module: ModuleType) -> bool:
    """Whether a module is a file of a project, and not of an installed package."""
    name, file = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py") or name.partition(".")[0] in ("lossnav", "__main__"):
        return False
    if sys.modules.get(name) is not module:
        return False
    path = Path(file)
    return not {"site-packages", "dist-packages"} & set(path.parts) and not path.is_relative_to(_STANDARD_LIBRARY)
