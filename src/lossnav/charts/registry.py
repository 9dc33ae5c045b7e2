"""The registry of chart classes, with their options and labels of their axes, by the name that stores contain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lossnav._utils.definitions import is_same_definition
from lossnav.errors import ChartError

if TYPE_CHECKING:
    from lossnav.charts.base import Chart

C = TypeVar("C", bound="type[Chart]")


@dataclass(frozen=True)
class ChartKind:
    """A registered class of charts.

    Attributes
    ----------
    chart : class
    options : tuple of str
        Attributes on which its map depends besides its control points; also keyword arguments of its constructor.
    axes : mapping of str to str
        A few words about each coordinate, for the labels of pictures.
    word : str
        Its name on the command line; empty if it is not available there.
    draw : mapping
        Options of `directions.random` that suit it, on the command line.
    complete : bool
        Whether its map depends only on control points and options. For any other chart, a surface also contains some
        numbers computed from the map, so that charts that differ in something else are distinguished.
    """

    chart: type[Chart]
    options: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    word: str = ""
    draw: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False

    @property
    def name(self) -> str:
        """The name in a surface."""
        return self.chart.__name__


_KINDS: dict[str, ChartKind] = {}


def register(**known: Any) -> Callable[[C], C]:
    """Register a class of charts, so that a surface on such a chart can be resumed and measured from its store.

    A chart whose class is not registered can also be evaluated, stored and plotted, but it cannot be made again from
    its store.

    Parameters
    ----------
    **known
        ``options``, ``axes`` and ``word`` of a `ChartKind`; all are optional.

    Returns
    -------
    callable
        The decorator of the class.

    Raises
    ------
    ChartError
        If another class with that name is registered.

    Examples
    --------
    >>> from lossnav.charts import Chart
    >>> @register(axes={"t": "from a to b"})
    ... class Segment(Chart):
    ...     dims = ("t",)
    ...
    ...     def __init__(self, a, b):
    ...         super().__init__({"a": a, "b": b})
    ...
    ...     def _at(self, coords, points):
    ...         (t,), a, b = coords, points["a"], points["b"]
    ...         return {name: (1 - t) * a[name] + t * b[name] for name in a}
    >>> kinds()["Segment"].axes
    {'t': 'from a to b'}
    """

    def record(chart: C) -> C:
        there = _KINDS.get(chart.__name__)
        if there is not None and not is_same_definition(there.chart, chart):
            raise ChartError(
                f"A chart called {chart.__name__} is registered already, from {there.chart.__module__}. Stores contain "
                "the name of the class, so give your class another name."
            )
        _KINDS[chart.__name__] = ChartKind(chart, **known)
        return chart

    return record


def kinds() -> dict[str, ChartKind]:
    """Return the registered kinds by the names that stores contain.

    Examples
    --------
    >>> sorted(name for name, kind in kinds().items() if kind.word)
    ['BezierCurve', 'Line', 'Plane', 'PolygonalChain', 'RescaledBilinear', 'RescaledLine', 'Simplex', 'Volume']
    """
    return dict(_KINDS)


def kind_of(chart: Chart) -> ChartKind:
    """Return the kind of a chart; for a class that is not registered, one with default values."""
    known = _KINDS.get(type(chart).__name__)
    return known if known is not None and known.chart is type(chart) else ChartKind(type(chart))
