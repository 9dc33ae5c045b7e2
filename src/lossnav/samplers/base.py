"""The base class of samplers: a sampler requests coordinates, receives their losses, and may request more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav.errors import SamplerError

PointArray = NDArray[np.float64]  # (m, k)
Losses = NDArray[np.float64]  # (m,)


def require_names(kind: str, nameless: tuple[Any, ...], example: str) -> None:
    """Raise if axes are passed without the names of their coordinates."""
    if nameless:
        names = ", ".join(f"{name}={example}" for name, _ in zip(("alpha", "beta", "gamma"), nameless, strict=False))
        raise SamplerError(f"The axes of a {kind} have the names of their coordinates. Pass ln.{kind}({names}).")


class Sampler(ABC):
    """Choose coordinates by ask and tell; a sampler is a value, and the state of a run is in its generator.

    A class of samplers has `dims`, `rounds` and `describe`, and `again` if a run is to be resumed from its store
    alone. Everything else has a default; the default of `over` passes the ends of the axes to the constructor by name.
    `lossnav.testing.SamplerLaws` are the laws that it must pass.

    Attributes
    ----------
    dims : tuple of str
        Names of its coordinates, in the chart's order.

    Raises
    ------
    TypeError
        If a class without `rounds` or `describe` is constructed.

    Examples
    --------
    A sampler that asks for one more point, beside the lower of two:

    >>> class TwoAndOne(Sampler):
    ...     dims = ("alpha",)
    ...     def rounds(self):
    ...         losses = yield np.array([[-1.0], [1.0]])
    ...         yield np.array([[(-1.0, 1.0)[losses.argmin()] / 2]])
    ...     def describe(self):
    ...         return {}
    >>> rounds = TwoAndOne().rounds()
    >>> next(rounds).tolist(), rounds.send(np.array([3.0, 2.0])).tolist()
    ([[-1.0], [1.0]], [[0.5]])
    """

    dims: tuple[str, ...]

    @abstractmethod
    def rounds(self) -> Generator[PointArray, Losses, dict[str, Any] | None]:
        """Yield coordinates of shape (m, k), no point twice; receive their losses, shape (m,), by `send`.

        The return value, if not None, is the outcome, which the surface stores as an attribute of its sampler.
        Its names and values are free, if JSON can hold them; names of `Adaptive` mean what they mean there.
        """

    def settle(self, losses: Callable[[PointArray], Losses]) -> Sampler:
        """Return the sampler with open settings decided from the losses at a few points; itself if none is open.

        Parameters
        ----------
        losses : callable
            Maps coordinates of shape (m, k) to losses of shape (m,).
        """
        return self

    @property
    def axes(self) -> dict[str, NDArray[np.float64]] | None:
        """The axes of the grid of all points, one array per dim; None if there is no grid."""
        return None

    @property
    def box(self) -> NDArray[np.float64]:
        """Lowest and highest value of each coordinate, shape (k, 2); -1 and 1 if not known in advance."""
        ends = [(axis[0], axis[-1]) for axis in self.axes.values()] if self.axes else [(-1.0, 1.0)] * len(self.dims)
        return np.array(ends, dtype=np.float64)

    @property
    def total(self) -> int | None:
        """Number of points that it will request; None if that depends on the losses."""
        return None

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe how the points are chosen, as JSON values."""

    @classmethod
    def over(cls, ends: Mapping[str, Any], **options: Any) -> Sampler:
        """Make the sampler from the ends of each axis, as the command line does.

        Parameters
        ----------
        ends : mapping of str to (low, high) or "auto"
            By the name of the coordinate, in the chart's order.
        **options
            The registered ``options`` of its kind (`lossnav.samplers.register`).

        Raises
        ------
        SamplerError
            If an option or an axis is invalid.
        """
        return cls(**ends, **options)

    @classmethod
    def again(cls, description: dict[str, Any]) -> Sampler:
        """Make the settled sampler from its description.

        Raises
        ------
        SamplerError
            If samplers of this kind cannot be made from a description.
        """
        raise SamplerError(f"A {cls.__name__} cannot be made from its description. Define {cls.__name__}.again.")


def description_of(sampler: Sampler) -> dict[str, Any]:
    """Return a sampler's description, with its kind added."""
    return {"kind": type(sampler).__name__} | sampler.describe()


def asked(points: Any, sampler: Sampler) -> PointArray:
    """Return the points that a sampler requested as an array of shape (m, k).

    Raises
    ------
    SamplerError
        If they have another shape, or are not finite.
    """
    try:
        made = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        made = np.full(1, np.nan)
    if made.ndim != 2 or made.shape[1] != len(sampler.dims) or not np.isfinite(made).all():
        raise SamplerError(
            f"{type(sampler).__name__} requested {_described(made)} instead of finite coordinates of shape "
            f"(m, {len(sampler.dims)}). Test it with lossnav.testing.SamplerLaws."
        )
    return made


def _described(points: PointArray) -> str:
    return f"points of shape {points.shape}" if np.isfinite(points).all() else "points that are not finite numbers"
