"""A given list of points."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lossnav._utils.geometry import distinct, packed, unpacked
from lossnav._utils.validation import described
from lossnav.errors import SamplerError
from lossnav.samplers.base import Losses, Sampler
from lossnav.samplers.base import PointArray as Coordinates
from lossnav.samplers.registry import register

_ONE_PLACE = 1e-12  # of the range: 0.3 and 0.1 + 0.2 are no two points
_MOST = 2**21  # numbers that are written down: attributes are read into memory whole


@register()
class Points(Sampler):
    """The points of a list, in its order; a point that comes twice, but for rounding, is asked for once.

    Parameters
    ----------
    points : array of shape (m, k)
    dims : sequence of str
        Names of the k coordinates, in the chart's order.

    Raises
    ------
    SamplerError
        If there is no point, shapes do not fit, or a coordinate is not finite.

    Examples
    --------
    >>> Points([(0, 0), (0.5, -1)], dims=("alpha", "beta")).total
    2
    """

    def __init__(self, points: ArrayLike, dims: tuple[str, ...] | list[str] = ("alpha", "beta")) -> None:
        try:
            places = np.asarray(points, dtype=np.float64)
        except (TypeError, ValueError):
            raise SamplerError(
                f"Points are numbers, one row a point, and were {described(points)}. Pass [[0, 0], [0.5, 1]], say."
            ) from None
        if places.ndim != 2 or places.shape[1] != len(dims) or not len(places):
            raise SamplerError(
                f"Points of shape {places.shape} for the coordinates {', '.join(dims)}: (m, {len(dims)}) is needed. "
                "Pass one row a point and dims= with a name for each column."
            )
        if not np.isfinite(places).all():
            raise SamplerError("The coordinates of the points are not all finite. Leave out the others.")
        _, first = np.unique(distinct(places, _ONE_PLACE), return_index=True)
        self.dims = tuple(dims)
        self.places = places[first]

    @property
    def box(self) -> Coordinates:
        """Lowest and highest value of each coordinate, shape (k, 2)."""
        return np.stack([self.places.min(0), self.places.max(0)], axis=1)

    @property
    def total(self) -> int:
        """Number of points."""
        return len(self.places)

    def rounds(self) -> Generator[Coordinates, Losses, None]:
        """Ask for everything at once."""
        yield self.places

    def describe(self) -> dict[str, Any]:
        """Kind, number of points, the box around them, and the points; of very many a hash of them alone."""
        axes = dict(zip(self.dims, self.box.tolist(), strict=True))
        said = {"kind": "Points", "points": self.total, "axes": axes}
        if self.places.size > _MOST:
            return said | {"places_hash": hashlib.sha256(self.places.astype("<f8").tobytes()).hexdigest()[:16]}
        return said | {"places": packed(self.places)}

    @classmethod
    def again(cls, description: dict[str, Any]) -> Points:
        """Make the sampler that describes itself so.

        Raises
        ------
        SamplerError
            If there were too many points to be written down, or what was written is no list of points.
        """
        dims = tuple(description["axes"])
        if "places" not in description:
            raise SamplerError(
                f"The {description['points']:,} points were too many to be kept in the attributes of the surface. Make "
                "the same call of ln.evaluate again, with the same points: it goes on from there."
            )
        try:
            places = unpacked(description["places"], len(dims))
        except (TypeError, ValueError) as error:
            raise SamplerError(
                f"The points in the attributes of the surface are none of {len(dims)} coordinates: {error}. Make the "
                "same call of ln.evaluate again."
            ) from None
        return cls(places, dims)

    def __repr__(self) -> str:
        return f"Points({self.total} points, dims={self.dims})"
