"""What a page can ask for. A module declares a request: its name, its fields with bounds, and how it is answered.

Every module of this folder is imported; `declare` adds its request to the table that `parse` reads.
"""

from __future__ import annotations

import importlib
import pkgutil

from lossnav.explorer.requests.request import Request, declare, declared, parse

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Request", "declare", "declared", "parse"]
