"""Laws of a sampler: it asks for finite coordinates, each once, and depends on nothing but what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav.charts import Chart
from lossnav.errors import SamplerError
from lossnav.evaluation.evaluate import evaluate
from lossnav.objective.objective import Objective
from lossnav.params import Params
from lossnav.samplers import Sampler
from lossnav.surface.assemble import table_of
from lossnav.testing.laws import Laws, require, require_described

Array = NDArray[np.float64]

_ROUNDS = 10_000  # after which a sampler is taken to go on for ever


class SamplerLaws(Laws):
    """What a class of samplers must do; ``make`` returns a sampler.

    Attributes
    ----------
    most : int
        Points after which it is taken to go on for ever.

    Examples
    --------
    >>> import lossnav as ln
    >>> class TestGrid(SamplerLaws):
    ...     def make(self):
    ...         return ln.Grid(alpha=(-1, 1, 5))
    >>> TestGrid().test_no_point_is_asked_for_twice()
    """

    most: int = 100_000

    def _settled(self) -> Sampler:
        sampler: Sampler = self.make()
        return sampler.settle(_bowl)

    def _asked(self, sampler: Sampler, losses: Callable[[Array], Array]) -> tuple[list[Array], Any]:
        rounds: list[Array] = []
        asking, told = sampler.rounds(), None
        while True:
            try:
                points = next(asking) if told is None else asking.send(told)
            except StopIteration as end:
                return rounds, end.value
            told = losses(points)
            rounds.append(np.array(points))
            count = sum(map(len, rounds))
            require(
                count <= self.most and len(rounds) <= _ROUNDS,
                f"After {count} points it still asks for more. It must end, whatever it is told.",
            )

    def test_coordinates_have_names(self) -> None:
        """`dims` is a tuple of different strings."""
        dims = self.make().dims
        named = isinstance(dims, tuple) and dims and all(isinstance(dim, str) for dim in dims)
        require(named and len(set(dims)) == len(dims), f"dims is {dims!r}; use a tuple of different names.")

    def test_rounds_are_arrays_of_finite_coordinates(self) -> None:
        """Each round yields a float64 array of shape (m, k), m at least 1."""
        sampler = self._settled()
        for points in self._asked(sampler, _bowl)[0]:
            shape = (len(points), len(sampler.dims))
            require(points.shape == shape and len(points), f"A round has shape {points.shape}, not {shape}.")
            require(points.dtype == np.float64, f"A round is of {points.dtype}, not float64.")
            require(np.isfinite(points).all(), "A round holds coordinates that are not finite.")

    def test_no_point_is_asked_for_twice(self) -> None:
        """Over all rounds every place comes once."""
        points = np.concatenate(self._asked(self._settled(), _bowl)[0]) + 0.0
        again = len(points) - len(np.unique(points, axis=0))
        require(not again, f"{again} of {len(points)} points are asked for again.")

    def test_points_lie_in_its_box(self) -> None:
        """`box` has shape (k, 2), low ends first, and all points in it."""
        sampler = self._settled()
        box, points = np.asarray(sampler.box), np.concatenate(self._asked(sampler, _bowl)[0])
        require(box.shape == (len(sampler.dims), 2), f"box has shape {box.shape}, not ({len(sampler.dims)}, 2).")
        inside = (points >= box[:, 0] - 1e-12).all() and (points <= box[:, 1] + 1e-12).all()
        require(inside, f"Points between {points.min(0)} and {points.max(0)} are not all in the box {box.tolist()}.")

    def test_the_same_losses_lead_to_the_same_points(self) -> None:
        """It has no memory of another run, and no random state but its own."""
        sampler = self._settled()
        first = self._asked(sampler, _bowl)
        np.random.seed(len(first[0]))  # noqa: NPY002 - what others do to the global state
        for other in (sampler, self._settled()):
            rounds, outcome = self._asked(other, _bowl)
            same = len(rounds) == len(first[0]) and all(map(np.array_equal, rounds, first[0]))
            require(same, "The same losses led to other points the second time.")
            require(repr(outcome) == repr(first[1]), f"The outcome was {first[1]!r} and is {outcome!r}.")

    def test_it_bears_losses_that_are_not_finite(self) -> None:
        """NaN and inf, as points that failed or overflowed give, neither raise nor keep it from ending."""

        def holes(points: Array) -> Array:
            losses = _bowl(points)
            losses[points[:, 0] > 0] = np.nan
            losses[points[:, -1] < -0.5] = np.inf
            return losses

        for losses in (holes, lambda points: np.full(len(points), np.nan)):
            self._asked(self._settled(), losses)

    def test_it_leaves_what_it_is_told_alone(self) -> None:
        """It does not write into the losses, and what happens to its points later changes nothing."""
        first = self._asked(self._settled(), _bowl)[0]
        told: list[tuple[Array, Array]] = []

        def losses(points: Array) -> Array:
            made = _bowl(points)
            told.append((made, made.copy()))
            return made

        asking, rounds = self._settled().rounds(), []
        points = next(asking)
        while points is not None:
            rounds.append(np.array(points))
            try:
                points = asking.send(losses(points))
            except StopIteration:
                break
        require(all(np.array_equal(one, other) for one, other in told), "It wrote into the losses that it was told.")
        require(all(map(np.array_equal, rounds, first)), "It asked for other points.")

    def test_total_is_how_many_it_asks_for(self) -> None:
        """`total` is None, or the number of points."""
        sampler = self._settled()
        count = sum(map(len, self._asked(sampler, _bowl)[0]))
        require(sampler.total in (None, count), f"total is {sampler.total} and {count} points were asked for.")

    def test_points_lie_on_its_axes(self) -> None:
        """Where `axes` names a grid, it is of its dims, increasing, and holds every point."""
        sampler = self._settled()
        if sampler.axes is None:
            return
        require(tuple(sampler.axes) == sampler.dims, f"axes are {tuple(sampler.axes)} and dims {sampler.dims}.")
        points = np.concatenate(self._asked(sampler, _bowl)[0])
        for i, (dim, axis) in enumerate(sampler.axes.items()):
            require((np.diff(axis) > 0).all(), f"The axis of {dim} does not increase.")
            off = np.setdiff1d(points[:, i], axis)
            require(not off.size, f"{off[:3].tolist()} are not on the axis of {dim}.")

    def test_settling_leaves_nothing_open(self) -> None:
        """A settled sampler settles to itself, and the one it came from is as before."""
        sampler: Sampler = self.make()
        before = sampler.describe()
        settled = sampler.settle(_bowl)
        require(sampler.describe() == before, "settle changed the sampler; it must return another one.")
        require(settled.settle(_bowl).describe() == settled.describe(), "Settled twice, it describes itself otherwise.")

    def test_description_is_complete(self) -> None:
        """JSON holds it, and it says the kind: the name of the class."""
        described = self._settled().describe()
        require_described(described, "What describe() returns")
        kind = described.get("kind", type(self.make()).__name__)
        require(kind == type(self.make()).__name__, f"kind is {kind!r}, not the name of the class.")

    def test_outcome_is_of_json(self) -> None:
        """What `rounds` returns is None, or a dict that JSON holds."""
        outcome = self._asked(self._settled(), _bowl)[1]
        if outcome is not None:
            require_described(outcome, "What rounds() returns")

    def test_it_is_made_again_from_its_description(self) -> None:
        """`again` makes a sampler that asks for the same points, or says that it does not."""
        settled = self._settled()
        try:
            made = type(settled).again(settled.describe())
        except SamplerError:
            return
        require(made.describe() == settled.describe(), "Made again, it describes itself otherwise.")
        first, second = (self._asked(sampler, _bowl)[0] for sampler in (settled, made))
        require(len(first) == len(second) and all(map(np.array_equal, first, second)), "It asks for other points.")

    def test_it_is_evaluated(self) -> None:
        """`evaluate` finds the loss at every point that it asks for."""
        sampler = self._settled()
        flat = _Flat(sampler.dims)
        bowl = Objective.from_function(_torch_bowl, dict(flat.center))
        rows = table_of(evaluate(bowl, flat, sampler, progress=False))
        points = np.concatenate(self._asked(sampler, _bowl)[0])
        same = np.array_equal(np.unique(rows.points + 0.0, axis=0), np.unique(points + 0.0, axis=0))
        require(same, f"It asked for {len(points)} points, and the surface has others, or {len(rows)}.")
        require(np.allclose(rows.values["loss"], _bowl(rows.points)), "The surface has other losses.")


class _Flat(Chart):
    """The coordinates themselves, whatever they are called."""

    def __init__(self, dims: tuple[str, ...]) -> None:
        self.dims = dims
        super().__init__({"origin": {"x": torch.zeros(len(dims), dtype=torch.float64)}})

    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        return {"x": torch.tensor(coords, dtype=points["origin"]["x"].dtype)}


def check_sampler(make: Callable[[], Sampler]) -> None:
    """Hold a sampler to `SamplerLaws`, all at once.

    Parameters
    ----------
    make : callable
        Returns the sampler, the same at every call.

    Raises
    ------
    AssertionError
        At the first law that is broken.

    Examples
    --------
    >>> import lossnav as ln
    >>> check_sampler(lambda: ln.Grid(alpha=(-1, 1, 5)))
    """
    SamplerLaws.check(make)


def _bowl(points: Array) -> Array:
    return np.asarray((np.asarray(points, np.float64) ** 2).sum(1) + 1.0, np.float64)


def _torch_bowl(params: Any) -> Any:
    return (params["x"] ** 2).sum() + 1.0
