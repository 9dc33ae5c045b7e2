"""Arrays that stay in their store until a part of them is asked for. Importing this imports xarray."""

from collections.abc import Sequence
from typing import Any

import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core.indexing import ExplicitIndexer, IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

from lossnav.errors import StoreError


class LazyArray(BackendArray):
    """An array that is read from its store, and checked, when a part of it is indexed."""

    def __init__(self, array: zarr.Array[Any], name: str) -> None:
        self.array, self.name, self.shape, self.dtype = array, name, array.shape, array.dtype

    def __getitem__(self, key: ExplicitIndexer) -> Any:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        try:
            return self.array.oindex[key]
        except ValueError as error:
            raise StoreError(
                f"A part of {self.name} in {self.array.store} does not match its checksum ({error}); lossnav info "
                "--verify lists it. Evaluate again with keep_samples=True, or omit the samples."
            ) from error

    @classmethod
    def variable(cls, array: zarr.Array[Any], name: str, dims: Sequence[str]) -> xr.Variable:
        """The same as a variable."""
        return xr.Variable(dims, LazilyIndexedArray(cls(array, name)))
