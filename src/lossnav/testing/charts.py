"""Laws of a chart: a pure map of its control points, of which everything else can be derived."""

from __future__ import annotations

import copy
import math
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav.charts import Chart, kind_of, kinds
from lossnav.charts.io import open_chart, save_chart
from lossnav.evaluation.evaluate import evaluate
from lossnav.objective.objective import Objective
from lossnav.params import Params
from lossnav.samplers import Points
from lossnav.testing.laws import Laws, require, require_described

_STEP = 1e-3  # of the differences that derivatives are held against, in float64


class ChartLaws(Laws):
    """What a class of charts must do; ``make`` returns a chart.

    Attributes
    ----------
    coords : sequence of k floats, or None
        Where the laws look, beside the origin, inside the domain of the chart with 0.01 around it; by default 0.3,
        0.55, 0.8, ….

    Examples
    --------
    >>> import lossnav as ln
    >>> class TestLine(ChartLaws):
    ...     def make(self):
    ...         return ln.Line({"w": torch.ones(3)}, {"w": torch.tensor([1.0, 0.0, 2.0])})
    >>> TestLine().test_same_coordinates_give_the_same_point()
    """

    coords: Sequence[float] | None = None

    def _chart(self) -> tuple[Chart, NDArray[np.float64]]:
        chart = self.make()
        k = len(chart.dims)
        coords = [0.3 + 0.25 * i for i in range(k)] if self.coords is None else self.coords
        return chart, np.asarray(coords, np.float64)

    def test_coordinates_have_names(self) -> None:
        """`dims` is a tuple of different names, each a Python identifier."""
        dims = self.make().dims
        named = isinstance(dims, tuple) and all(isinstance(dim, str) and dim.isidentifier() for dim in dims)
        require(named and dims and len(set(dims)) == len(dims), f"dims is {dims!r}; use different identifiers.")

    def test_origin_is_the_centre(self) -> None:
        """At coordinates 0 lies the centre, bit for bit."""
        chart, coords = self._chart()
        _require_equal(chart(0 * coords), chart.center, "The point at coordinates 0 is not the centre")

    def test_points_have_the_form_of_the_control_points(self) -> None:
        """A point has the names, shapes, dtypes and devices of the control points, and hangs on no graph."""
        chart, coords = self._chart()
        made, first = chart(coords), next(iter(chart.points.values()))
        require(list(made) == list(first), f"The point has the names {list(made)}, the control points {list(first)}.")
        for name, tensor in first.items():
            form = [(t.shape, t.dtype, t.device) for t in (made[name], tensor)]
            require(form[0] == form[1], f'"{name}" of the point is {form[0]}, of the control points {form[1]}.')
            require(not made[name].requires_grad, f'"{name}" of the point requires a gradient.')

    def test_same_coordinates_give_the_same_point(self) -> None:
        """The map has no memory: what was asked before, and in which order, changes nothing."""
        chart, coords = self._chart()
        first = algebra.copy(chart(coords))
        chart(0 * coords), chart(-coords if self.coords is None else 0.5 * coords)
        _require_equal(chart(coords), first, "The second call at the same coordinates gave another point")
        _require_equal(self.make()(coords), first, "A chart that was made the same way gives another point")

    def test_control_points_are_left_alone(self) -> None:
        """Neither the map nor its derivatives write into the control points."""
        chart, coords = self._chart()
        before = {name: algebra.fingerprint(point) for name, point in _stored(chart).items()}
        made = chart(coords)
        for tensor in made.values():
            if not any(tensor is own for point in _stored(chart).values() for own in point.values()):
                tensor.add_(1.0)  # what is done to a point is not done to the chart
        chart.tangents(coords)
        for name, point in _stored(chart).items():
            require(algebra.fingerprint(point) == before[name], f"The control point {name} was changed.")

    def test_the_map_is_of_the_control_points_it_is_given(self) -> None:
        """With other control points it is the chart that the constructor makes of them: nothing of the first stays."""
        chart, coords = self._chart()
        others = {name: _shaken(point, i) for i, (name, point) in enumerate(_stored(chart).items())}
        options = {name: getattr(chart, name) for name in kind_of(chart).options}
        points = [others.get(name, point) for name, point in chart.points.items()]
        try:
            anew = type(chart)(*points, **options)  # type: ignore[arg-type]
        except TypeError as error:
            raise AssertionError(
                f"{type(chart).__name__} is not made of its control points by position and its registered options by "
                f"name ({error}), so it cannot be made again from a store."
            ) from error
        _require_near(
            chart.replacing(others)(coords), anew(coords), "_at uses other tensors than its argument `points`"
        )

    def test_it_is_the_same_map_in_float64(self) -> None:
        """Of control points in float64 it gives points in float64, near those in the dtype of the control points."""
        chart, coords = self._chart()
        _require_near(_precise(chart)(coords), chart(coords), "The map of control points in float64 is another one")
        fine = chart.replacing({name: _shaken(_double(point), 3) for name, point in _stored(chart).items()})(coords)
        for name, tensor in fine.items():
            rounded = tensor.is_floating_point() and bool((tensor.float().double() == tensor).all())
            require(
                not rounded or not bool(tensor.any()),
                f'"{name}" of a point of control points in float64 has the digits of float32: the map rounds on its '
                "way, and derivatives are noise. Compute with the tensors of `points` and Python floats.",
            )

    def test_places_of_control_points_are_met(self) -> None:
        """Where `places` says that a control point lies, lies that point, with its buffers."""
        chart, _ = self._chart()
        for name, place in chart.places().items():
            require(len(place) == len(chart.dims), f"The place of {name} is {place}, of {len(chart.dims)} coordinates.")
            _require_near(chart(place), dict(chart.points[name]), f"At {place} does not lie the control point {name}")

    def test_tangents_are_derivatives(self) -> None:
        """`tangents` are the differences of the map in float64, divided by the step."""
        chart, coords = self._chart()
        precise = _precise(chart)
        for i, tangent in enumerate(chart.tangents(coords)):
            step = _STEP * np.eye(len(coords))[i]
            slope = algebra.subtract(precise(coords + step), precise(coords - step))
            slope = {name: tensor / (2 * _STEP) for name, tensor in slope.items()}
            _require_near(dict(tangent), slope, f"The tangent along {chart.dims[i]} is no derivative", 1e-4)

    def test_bending_is_the_second_derivative(self) -> None:
        """`bending` along a covector is the second difference of the map in float64."""
        chart, coords = self._chart()
        precise, eye = _precise(chart), _STEP * np.eye(len(coords))
        covector = _shaken({name: torch.zeros_like(tensor).double() for name, tensor in chart.center.items()}, 7)
        made, scale = chart.bending(coords, covector), algebra.norm(covector)
        size = max(algebra.norm(tangent) for tangent in chart.tangents(coords)) * scale
        for i, a in enumerate(eye):
            for j, b in enumerate(eye):
                ends = (precise(coords + s * a + t * b) for s, t in ((1, 1), (-1, -1), (1, -1), (-1, 1)))
                heights = [algebra.dot(covector, end) for end in ends]
                bend = (heights[0] + heights[1] - heights[2] - heights[3]) / (4 * _STEP**2)
                near = math.isclose(made[i, j], bend, rel_tol=1e-3, abs_tol=1e-4 * (1 + size))
                require(near, f"bending[{i}, {j}] is {made[i, j]:.6g} and the second difference {bend:.6g}.")

    def test_an_affine_chart_is_its_basis(self) -> None:
        """Where `affine` says so, a point is the centre plus the coordinates times the basis."""
        chart, coords = self._chart()
        if not chart.affine:
            return
        for x in (coords, -2 * coords):
            made = algebra.combine(_double(chart.center), [float(t) for t in x], [_double(b) for b in chart.basis])
            _require_near(chart(x), made, f"affine is True, and at {x} does not lie center + x . basis")

    def test_projection_inverts_it(self) -> None:
        """The projection of a point of the chart is a point of it at no distance."""
        chart, coords = self._chart()
        point = chart(coords)
        found = chart.project(point)
        rounding = _rounding(point) * algebra.norm(point)
        require(
            found.residual <= 1e-3 * algebra.norm(algebra.subtract(point, chart.center)) + 10 * rounding,
            f"The projection of the point at {coords} lies at {found.coords}, {found.residual:.3g} away.",
        )

    def test_description_is_complete(self) -> None:
        """JSON holds it; it is the same for the same chart and another one for another control point."""
        chart, _ = self._chart()
        require_described(chart.describe(), "What describe() returns")
        require(self.make().describe() == chart.describe(), "A chart that was made the same way describes itself so.")
        for i, (name, point) in enumerate(_stored(chart).items()):
            other = chart.replacing({name: _shaken(point, i)})
            require(other.describe() != chart.describe(), f"With another {name} it describes itself as before.")

    def test_it_travels(self) -> None:
        """A copy and a pickle of it, as engines send them, are the same map."""
        chart, coords = self._chart()
        for made in (copy.deepcopy(chart), pickle.loads(pickle.dumps(chart))):
            _require_equal(made(coords), chart(coords), "A copy of it gives another point")

    def test_it_is_made_again_from_what_is_kept(self) -> None:
        """Where its class is registered, a file of its tensors and its description make it again."""
        chart, coords = self._chart()
        if type(chart).__name__ not in kinds():
            return
        with tempfile.TemporaryDirectory() as folder:
            save_chart(chart, Path(folder) / "chart.safetensors")
            again = open_chart(chart.describe(), kept=Path(folder) / "chart.safetensors")
        _require_equal(again(coords), chart(coords), "Made again from a file, it gives another point")

    def test_it_is_evaluated(self) -> None:
        """`evaluate` finds at each point the value of a function there, and leaves the centre as it was."""
        chart, coords = self._chart()
        before = algebra.fingerprint(chart.center)
        objective = Objective.from_function(_bowl, algebra.copy(chart.center))
        places = np.stack([0 * coords, coords])
        surface = evaluate(objective, chart, Points(places, chart.dims), progress=False)
        for place, loss in zip(places, surface["loss"].values, strict=True):
            expected = float(_bowl(chart(place)))
            require(math.isclose(float(loss), expected, rel_tol=1e-4, abs_tol=1e-6), f"{loss} is not {expected}.")
        require(algebra.fingerprint(chart.center) == before, "The centre was changed.")


def check_chart(make: Callable[[], Chart], coords: Sequence[float] | None = None) -> None:
    """Hold a chart to `ChartLaws`, all at once.

    Parameters
    ----------
    make : callable
        Returns the chart, the same at every call.
    coords : sequence of k floats, optional
        Where to look beside the origin.

    Raises
    ------
    AssertionError
        At the first law that is broken.

    Examples
    --------
    >>> import lossnav as ln
    >>> check_chart(lambda: ln.Line({"w": torch.ones(3)}, {"w": torch.tensor([1.0, 0.0, 2.0])}))
    """
    ChartLaws.check(make, coords=coords)


# ---------------------------------------------------------------------- inside


def _bowl(params: Mapping[str, Tensor]) -> Tensor:
    total = sum(((tensor.float() - 0.5) ** 2).sum() for tensor in params.values())
    assert isinstance(total, Tensor)
    return total


def _stored(chart: Chart) -> dict[str, Mapping[str, Tensor]]:
    """The control points and vectors that hold tensors; those that are drawn anew at every point are left out."""
    return {name: point for name, point in chart.points.items() if isinstance(point, dict)}


def _precise(chart: Chart) -> Chart:
    return chart.replacing({name: _double(point) for name, point in _stored(chart).items()})


def _double(params: Mapping[str, Tensor]) -> Params:
    return {name: tensor.to(torch.promote_types(tensor.dtype, torch.float64)) for name, tensor in params.items()}


def _shaken(params: Mapping[str, Tensor], seed: int) -> Params:
    """Other numbers in the same places; tensors of zeros, where a direction does not lead, stay zero."""
    generator = torch.Generator().manual_seed(seed)
    every = not any(bool(tensor.any()) for tensor in params.values())
    made = {}
    for name, tensor in params.items():
        drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device) - 0.5
        size = float(tensor.detach().double().abs().mean()) if not every else 1.0
        made[name] = (tensor.double() + size * drawn).to(tensor.dtype)
    return made


def _rounding(params: Mapping[str, Tensor]) -> float:
    return max((torch.finfo(t.dtype).eps for t in params.values() if t.is_floating_point()), default=0.0)


def _require_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor], message: str) -> None:
    for name, tensor in other.items():
        same = torch.equal(one[name], tensor) or bool((one[name].isnan() == tensor.isnan()).all())
        close = torch.allclose(one[name].double(), tensor.double(), rtol=0, atol=0, equal_nan=True)
        require(same and close, f'{message}: "{name}" differs by {_distance(one[name], tensor):.3g}.')


def _require_near(one: Any, other: Any, message: str, tolerance: float = 0.0) -> None:
    """Raise unless two points are the same to rounding in the coarser of their dtypes, or to a tolerance."""
    allowed = max(tolerance, 16 * max(_rounding(one), _rounding(other)))
    size = max(algebra.norm(_double(one)), algebra.norm(_double(other)))
    off = algebra.norm(algebra.subtract(_double(one), _double(other)))
    require(off <= allowed * (size + 1e-6), f"{message}: they are {off:.3g} apart, and {size:.3g} long.")


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm())
