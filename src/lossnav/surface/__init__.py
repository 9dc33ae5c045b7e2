"""The result: an `xarray.Dataset` by a written schema (docs/schema.md). No torch.

Importing the package gives every dataset its accessor, ``surface.lossnav``, as soon as xarray is imported.
"""

import importlib
from typing import Any

from lossnav._utils.lazy_import import once_imported


def _accessor(dataset: Any) -> Any:
    return importlib.import_module("lossnav.surface.accessor").SurfaceAccessor(dataset)


def _register() -> None:
    import xarray as xr

    xr.register_dataset_accessor("lossnav")(_accessor)  # type: ignore[no-untyped-call]


once_imported("xarray", _register)
