"""A plane as triangles in space, with holes left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav._utils.jsonable import jsonable
from lossnav.errors import OptionError
from lossnav.plots.picture import Picture, dims_of, on_grid, prepare
from lossnav.plots.scales import colors_of

_HEIGHT = 0.75  # of the longer side of the plane, as in our pictures

_PROVENANCE = ("schema", "schema_version", "lossnav_version", "created", "objective", "chart", "sampler", "center")


@dataclass(frozen=True)
class Mesh:
    """Triangles over a plane; every vertex is a point of the surface, and belongs to a triangle.

    Attributes
    ----------
    coordinates : ndarray of shape (n, 2)
    heights : ndarray of shape (n,)
        The variable there, or its log10.
    colors : ndarray of shape (n, 3)
        Red, green and blue from 0 to 1, sRGB.
    variables : mapping of str to ndarray of shape (n,)
        All variables of the surface there, `status` included, in their own types.
    faces : ndarray of int, shape (m, 3)
        Counter-clockwise as seen from above.
    about : dict
        Meaning of the heights and provenance of the surface; JSON values.
    """

    coordinates: NDArray[np.float64]
    heights: NDArray[np.float64]
    colors: NDArray[np.float64]
    variables: Mapping[str, NDArray[Any]]
    faces: NDArray[np.int64]
    about: dict[str, Any]

    @property
    def scale(self) -> tuple[float, float]:
        """Offset and factor that scale heights for viewing: (height - zero) * factor."""
        low, high = float(self.heights.min()), float(self.heights.max())
        return low, _HEIGHT * float(np.ptp(self.coordinates, axis=0).max()) / (high - low) if high > low else 1.0

    @cached_property
    def scaled(self) -> NDArray[np.float64]:
        """Vertices in space, the heights scaled, shape (n, 3); z is up."""
        zero, factor = self.scale
        return np.column_stack([self.coordinates, (self.heights - zero) * factor])

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        """Unit normals of the scaled vertices, shape (n, 3): mean over adjacent faces, weighted by area."""
        a, b, c = (self.scaled[self.faces[:, i]] for i in range(3))
        across = np.cross(b - a, c - a)
        made = np.zeros_like(self.scaled)
        for i in range(3):
            np.add.at(made, self.faces[:, i], across)
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float64)

    @property
    def about_scaled(self) -> dict[str, Any]:
        """`about`, with the scaling of the heights."""
        zero, factor = self.scale
        return {
            **self.about,
            "z_zero": zero,
            "z_factor": factor,
            "z_is": f"({self.about['height']} - z_zero) * z_factor",
        }


def mesh_of(dataset: xr.Dataset, variable: str, log: bool) -> Mesh:
    """Make the mesh of a plane.

    Raises
    ------
    OptionError
        If the surface is not a plane, lacks the variable, or has no three adjacent finite points.
    """
    dims = dims_of(dataset)
    if len(dims) != 2:
        instead = ".csv, .json or .vti"
        if len(dims) == 3 and "point" not in dataset.dims:
            instead = f".vti, or a slice, surface.isel({dims[-1]}=0)"
        raise OptionError(f"A mesh needs a plane, but this surface has ({', '.join(dims)}). Export {instead}.")
    grid = on_grid(dataset)
    picture = prepare(grid, variable, log, 2)
    faces = _triangles(~picture.holes)
    if not len(faces):
        raise OptionError(
            f"A mesh needs three adjacent points with a finite {picture.log_label if log else picture.label}, and "
            "there are none. Export .csv."
        )
    used, faces = np.unique(faces, return_inverse=True)
    x, y = np.meshgrid(*(axis.values for axis in picture.axes), indexing="ij")
    return Mesh(
        coordinates=np.column_stack([x.reshape(-1)[used], y.reshape(-1)[used]]),
        heights=picture.drawn.reshape(-1)[used],
        colors=colors_of(picture).reshape(-1, 3)[used],
        variables={str(name): values.values.reshape(-1)[used] for name, values in grid.data_vars.items()},
        faces=faces.reshape(-1, 3),
        about=about(grid, picture),
    )


def about(dataset: xr.Dataset, picture: Picture | None = None) -> dict[str, Any]:
    """Provenance of a surface for a file's metadata; with a picture also the meaning of its heights and holes."""
    said: dict[str, Any] = {key: dataset.attrs[key] for key in _PROVENANCE if key in dataset.attrs}
    if picture is not None:
        said |= {"height": picture.log_label if picture.log else picture.label, "note": picture.note}
        said["axes"] = [axis.label for axis in picture.axes]
    return dict(jsonable(said))


def _triangles(there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Two triangles per cell with four corners, one per cell with three; as indices into the flattened grid."""
    places = np.arange(there.size).reshape(there.shape)
    corners = [np.s_[:-1, :-1], np.s_[1:, :-1], np.s_[1:, 1:], np.s_[:-1, 1:]]  # counter-clockwise from above
    a, b, c, d = (places[corner].reshape(-1) for corner in corners)
    rising = there[corners[0]].reshape(-1) & there[corners[2]].reshape(-1)  # cut from a to c; else from b to d
    first = np.where(rising[:, None], np.column_stack([a, b, c]), np.column_stack([a, b, d]))
    second = np.where(rising[:, None], np.column_stack([a, c, d]), np.column_stack([b, c, d]))
    triangles = np.stack([first, second], axis=1).reshape(-1, 3)
    return np.asarray(triangles[there.reshape(-1)[triangles].all(1)], np.int64)
