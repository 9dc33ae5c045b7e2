"""A surface as a table, and as JSON."""

from __future__ import annotations

import json as standard_json

import xarray as xr

from lossnav._utils.jsonable import jsonable


def csv(dataset: xr.Dataset) -> bytes:
    """One row per point, coordinates first; every float64 with enough digits to restore it exactly."""
    frame = dataset.to_dataframe().reset_index()
    names = dict.fromkeys(map(str, (*dataset["loss"].dims, *dataset.coords, *dataset.data_vars)))
    columns = [name for name in names if name in dataset.variables]  # a dim of points is a mere number
    return frame[columns].to_csv(index=False, na_rep="nan", lineterminator="\n").encode()


def json(dataset: xr.Dataset) -> bytes:
    """The form of `xarray.Dataset.to_dict`; numbers that JSON lacks become strings, as everywhere in the schema."""
    return standard_json.dumps(jsonable(dataset.to_dict()), allow_nan=False, ensure_ascii=False).encode()
