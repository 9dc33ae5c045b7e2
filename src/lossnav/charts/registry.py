"""Which kinds of charts there are: the class, its options, and the words for its axes, by the name that stores hold."""

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
    """What is known of a class of charts.

    Attributes
    ----------
    chart : class
    options : tuple of str
        Attributes that its map depends on beside its control points, and keyword arguments of its constructor.
    axes : mapping of str to str
        What each coordinate is, in a few words, for the labels of pictures.
    word : str
        How the command line calls it; empty where it cannot be asked for there.
    draw : mapping
        Options of `directions.random` that suit it, on the command line.
    complete : bool
        Whether its control points and options say all that the map depends on. Of any other chart a surface also
        holds a few numbers of the map itself, so that two that differ in something else are told apart.
    """

    chart: type[Chart]
    options: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    word: str = ""
    draw: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False

    @property
    def name(self) -> str:
        """The name that a surface holds."""
        return self.chart.__name__


_KINDS: dict[str, ChartKind] = {}


def register(**known: Any) -> Callable[[C], C]:
    """Make a class of charts known, so that a surface on such a chart can be resumed and measured from its store.

    A chart of a class that is not registered can be evaluated, stored and plotted as well; from its store alone it is
    not made again.

    Parameters
    ----------
    **known
        ``options``, ``axes`` and ``word`` of a `ChartKind`; all may be left out.

    Returns
    -------
    callable
        The decorator of the class.

    Raises
    ------
    ChartError
        If another class of that name is registered.

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
                f"A chart called {chart.__name__} is registered already, from {there.chart.__module__}. Stores hold "
                "the name of the class: give yours another one."
            )
        _KINDS[chart.__name__] = ChartKind(chart, **known)
        return chart

    return record


def kinds() -> dict[str, ChartKind]:
    """Return the registered kinds by the names that stores hold.

    Examples
    --------
    >>> sorted(name for name, kind in kinds().items() if kind.word)
    ['Line', 'Plane', 'RescaledBilinear', 'RescaledLine', 'Volume']
    """
    return dict(_KINDS)


def kind_of(chart: Chart) -> ChartKind:
    """Return what is known of a chart's class; of one that is not registered no more than its name."""
    known = _KINDS.get(type(chart).__name__)
    return known if known is not None and known.chart is type(chart) else ChartKind(type(chart))
