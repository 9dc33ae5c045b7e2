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
    """The points of a list, in its order; points that are equal up to rounding are evaluated once.

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
                f"Points must be numbers, one row per point, got {described(points)}. Example: [[0, 0], [0.5, 1]]."
            ) from None
        if places.ndim != 2 or places.shape[1] != len(dims) or not len(places):
            raise SamplerError(
                f"Points for the coordinates {', '.join(dims)} must have shape (m, {len(dims)}), got "
                f"{places.shape}. "
                "Pass one row per point and dims= with a name for each column."
            )
        if not np.isfinite(places).all():
            raise SamplerError("The coordinates of the points must all be finite. Remove the others.")
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
        """Request all points at once."""
        yield self.places

    def describe(self) -> dict[str, Any]:
        """Kind, number of points, the box around them, and the points; for very many, only their hash."""
        axes = dict(zip(self.dims, self.box.tolist(), strict=True))
        said = {"kind": "Points", "points": self.total, "axes": axes}
        if self.places.size > _MOST:
            return said | {"places_hash": hashlib.sha256(self.places.astype("<f8").tobytes()).hexdigest()[:16]}
        return said | {"places": packed(self.places)}

    @classmethod
    def again(cls, description: dict[str, Any]) -> Points:
        """Make the sampler from its description.

        Raises
        ------
        SamplerError
            If the points were too many to be stored, or the stored value is not a list of points.
        """
        dims = tuple(description["axes"])
        if "places" not in description:
            raise SamplerError(
                f"The {description['points']:,} points were too many to be stored in the surface's attributes. Repeat "
                "the same call of ln.evaluate, with the same points: it resumes the run."
            )
        try:
            places = unpacked(description["places"], len(dims))
        except (TypeError, ValueError) as error:
            raise SamplerError(
                f"The points in the attributes of the surface do not have {len(dims)} coordinates: {error}. Repeat the "
                "same call of ln.evaluate."
            ) from None
        return cls(places, dims)

    def __repr__(self) -> str:
        return f"Points({self.total} points, dims={self.dims})"
