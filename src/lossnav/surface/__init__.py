"""The result: an `xarray.Dataset` by a written schema (docs/schema.md). No torch.

Importing the package gives every dataset its accessor, ``surface.lossnav``.
"""

from lossnav.surface import accessor as accessor
