"""Surfaces in other programs' formats: tables, ParaView's files, meshes for Blender and the web. No torch needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from lossnav._utils.paths import require_writable, write_whole
from lossnav.errors import OptionError
from lossnav.exports import gltf, obj, tables, vtk
from lossnav.exports.mesh import Mesh, mesh_of
from lossnav.surface.assemble import without_samples
from lossnav.surface.seeds import of_one_seed
from lossnav.surface.variables import validate

_OF_VALUES: dict[str, Callable[[xr.Dataset], bytes]] = {".csv": tables.csv, ".json": tables.json, ".vti": vtk.image}
_OF_MESHES: dict[str, Callable[[Mesh], bytes]] = {".vtp": vtk.polygons, ".glb": gltf.binary, ".obj": obj.text}

ENDINGS = (*_OF_VALUES, *_OF_MESHES)


def export(
    dataset: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    variable: str = "loss",
    log: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a surface as a file that other programs read; its ending says which.

    ============  ===============================================================================================
    ``.csv``      a table: a row a point, a column a coordinate or variable, ``status`` as its code
    ``.json``     everything, attributes too, as `xarray.Dataset.to_dict` has it; numbers that JSON lacks are the
                  words "inf", "-inf", "nan"
    ``.vti``      VTK's image data, for ParaView: all variables over an evenly spaced line, plane or volume
    ``.vtp``      VTK's polygons: a plane as a mesh with z = the variable or its log10, all variables on its points
    ``.glb``      binary glTF 2.0, for Blender and the web: a coloured mesh, heights scaled to a sensible size
    ``.obj``      Wavefront's mesh, the same, for everything else
    ============  ===============================================================================================

    Meshes have holes where points are not finite or were not evaluated. Of several seeds ``.vti`` and meshes hold the
    mean; of points that lie on no grid what is interpolated between them, with a variable ``interpolated``.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface.
    path : path
    variable : str
        What the heights of a mesh are.
    log : bool
        Whether they are its log10.
    overwrite : bool

    Returns
    -------
    Path

    Raises
    ------
    NotASurfaceError
        If the dataset is no surface.
    OptionError
        If the ending is none of these, the file cannot hold such a surface (a mesh of a volume), or `variable` or
        `log` is given where there are no heights.
    OutputExistsError, OutputNotWritableError
    StoreError
        If writing fails half-way.
    """
    surface = without_samples(of_one_seed(validate(dataset)))
    suffix = Path(path).suffix.lower()
    if suffix not in ENDINGS:
        raise OptionError(f"{path} ends in {suffix or 'nothing'!r}. Use {', '.join(ENDINGS)}.")
    if suffix in _OF_VALUES and (log or variable != "loss"):
        raise OptionError(
            f"A {suffix} file holds all variables as they are: leave variable and log out. "
            f"They are for heights of meshes, {', '.join(_OF_MESHES)}."
        )
    if suffix in _OF_VALUES:
        content = _OF_VALUES[suffix](surface)
    else:
        content = _OF_MESHES[suffix](mesh_of(surface, variable, log))
    target = require_writable(path, overwrite)
    write_whole(target, content)
    return target
