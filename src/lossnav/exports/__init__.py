"""Export surfaces to other formats: tables, ParaView, meshes for Blender and the web. Works without torch."""

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
    """Write a surface to a file for other programs; the file extension sets the format.

    ============  ===============================================================================================
    ``.csv``      a table: one row per point, one column per coordinate or variable, ``status`` as its code
    ``.json``     everything, with attributes, in the form of `xarray.Dataset.to_dict`; numbers that JSON lacks are
                                the strings "inf", "-inf", "nan"
    ``.vti``      VTK's image data, for ParaView: all variables over an evenly spaced line, plane or volume
    ``.vtp``      VTK's polygons: a plane as a mesh with z = the variable or its log10, all variables on its points
    ``.glb``      binary glTF 2.0, for Blender and the web: a coloured mesh, heights scaled to a sensible size
    ``.obj``      Wavefront's mesh, as ``.glb``, for other programs
    ============  ===============================================================================================

    Meshes have holes where points are not finite or were not evaluated. For several seeds ``.vti`` and meshes contain
    the mean; points that are not a grid are interpolated, with a variable ``interpolated``.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface.
    path : path
    variable : str
        Variable used as height of a mesh.
    log : bool
        Whether to use its log10.
    overwrite : bool

    Returns
    -------
    Path

    Raises
    ------
    NotASurfaceError
        If the dataset is not a surface.
    OptionError
        If the file extension is none of these, the format cannot hold such a surface (a mesh of a volume), or
        `variable` or `log` is given for a format without heights.
    OutputExistsError, OutputNotWritableError
    StoreError
        If writing fails half-way.

    Examples
    --------
    >>> import tempfile, torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(1)})
    >>> line = ln.Line(bowl.params, {"x": torch.ones(1)})
    >>> surface = ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 3)))
    >>> path = ln.export(surface, tempfile.mkdtemp() + "/bowl.csv")
    >>> path.read_text().splitlines()[0], len(path.read_text().splitlines())
    ('alpha,loss,status', 4)
    """
    surface = without_samples(of_one_seed(validate(dataset)))
    suffix = Path(path).suffix.lower()
    if suffix not in ENDINGS:
        raise OptionError(f"{path} must end in {', '.join(ENDINGS)}, got {suffix or 'no ending'!r}.")
    if suffix in _OF_VALUES and (log or variable != "loss"):
        raise OptionError(
            f"A {suffix} file contains all variables unchanged: omit variable and log. "
            f"They set the heights of meshes, {', '.join(_OF_MESHES)}."
        )
    if suffix in _OF_VALUES:
        content = _OF_VALUES[suffix](surface)
    else:
        content = _OF_MESHES[suffix](mesh_of(surface, variable, log))
    target = require_writable(path, overwrite)
    write_whole(target, content)
    return target
