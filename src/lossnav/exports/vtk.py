"""Writes VTK's XML files for ParaView, by the description of the format ("VTK XML file formats", docs.vtk.org).

Numbers are little-endian, base64, not compressed, each block with its length in bytes before it as a UInt64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav.errors import OptionError
from lossnav.exports.mesh import Mesh, about
from lossnav.plots.picture import dims_of, on_grid

_EVEN = 1e-9  # of the range: steps that differ by less are one


def image(dataset: xr.Dataset) -> bytes:
    """A line, plane or volume as image data (.vti), with every variable as a point array.

    Raises
    ------
    OptionError
        If an axis is not evenly spaced, or there are more than three.
    """
    grid = on_grid(dataset)
    dims = dims_of(grid)
    if len(dims) > 3:
        raise OptionError(f"A .vti file has at most three coordinates, but this surface has {len(dims)}. Export .csv.")
    axes = [grid[dim].values.astype(np.float64) for dim in dims]
    for dim, axis in zip(dims, axes, strict=True):
        steps = np.diff(axis)
        if len(steps) and np.ptp(steps) > _EVEN * np.ptp(axis):
            raise OptionError(
                f"A .vti file needs even steps, but those of {dim} are from {steps.min():g} to {steps.max():g}. "
                "Export an interpolated grid, surface.lossnav.to_grid(101), or a .vtp, which allows any steps."
            )
    axes += [np.zeros(1)] * (3 - len(axes))
    extent = " ".join(f"0 {len(axis) - 1}" for axis in axes)
    origin = " ".join(repr(float(axis[0])) for axis in axes)
    spacing = " ".join(repr(float(np.ptp(axis)) / (len(axis) - 1) if len(axis) > 1 else 1.0) for axis in axes)
    arrays = {str(name): values.values.reshape(-1, order="F") for name, values in grid.data_vars.items()}
    return _file(
        "ImageData",
        f'WholeExtent="{extent}" Origin="{origin}" Spacing="{spacing}"',
        f'Extent="{extent}"',
        [_section("PointData", arrays, 'Scalars="loss"')],
        about(grid) | {"axes": [str(grid[dim].attrs.get("long_name", dim)) for dim in dims]},
    )


def polygons(mesh: Mesh) -> bytes:
    """A mesh as polygons (.vtp), with z = the unscaled heights and every variable as a point array."""
    points = np.column_stack([mesh.coordinates, mesh.heights])
    cells = {"connectivity": mesh.faces.reshape(-1), "offsets": 3 * np.arange(1, len(mesh.faces) + 1)}
    counts = {"Points": len(points), "Verts": 0, "Lines": 0, "Strips": 0, "Polys": len(mesh.faces)}
    return _file(
        "PolyData",
        "",
        " ".join(f'NumberOf{what}="{count}"' for what, count in counts.items()),
        [
            _section("PointData", mesh.variables, 'Scalars="loss"'),
            _section("Points", {"Points": points}),
            _section("Polys", cells),
        ],
        mesh.about,
    )


def _file(kind: str, whole: str, piece: str, sections: list[str], said: Mapping[str, Any]) -> bytes:
    """The XML around one piece, with its description as a string in the field data."""
    words = " ".join(str(byte) for byte in (*json.dumps(said, ensure_ascii=False).encode(), 0))
    return "\n".join(
        [
            '<?xml version="1.0"?>',
            f'<VTKFile type="{kind}" version="1.0" byte_order="LittleEndian" header_type="UInt64">',
            f"<{kind} {whole}>",
            "<FieldData>",
            f'<Array type="String" Name="lossnav" NumberOfTuples="1" format="ascii">{words}</Array>',
            "</FieldData>",
            f"<Piece {piece}>",
            *sections,
            "</Piece>",
            f"</{kind}>",
            "</VTKFile>",
            "",
        ]
    ).encode()


def _section(tag: str, arrays: Mapping[str, NDArray[Any]], attributes: str = "") -> str:
    return "\n".join([f"<{tag} {attributes}>", *(_array(name, values) for name, values in arrays.items()), f"</{tag}>"])


def _array(name: str, values: NDArray[Any]) -> str:
    kind = {"f": "Float", "i": "Int", "u": "UInt"}[values.dtype.kind] + str(8 * values.dtype.itemsize)
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    block = base64.b64encode(np.uint64(len(data)).astype("<u8").tobytes() + data).decode()
    components = f' NumberOfComponents="{values.shape[1]}"' if values.ndim == 2 else ""
    return f'<DataArray type="{kind}" Name={quoteattr(name)}{components} format="binary">{block}</DataArray>'
