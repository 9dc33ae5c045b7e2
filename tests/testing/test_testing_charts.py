"""Our own charts and a stranger's pass the laws of charts; for each law there is a chart that breaks it."""

import itertools

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav.charts import Chart, registry
from lossnav.testing import ChartLaws, check_chart
from quadratic_path import QuadraticPath


def weights(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layer.weight": (3, 4), "layer.bias": (3,), "head.weight": (2, 3)}
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


def directions(n):
    made = [weights(10 + i) for i in range(n)]
    for vector in made:
        vector["layer.bias"] = torch.zeros(3)
    return made


class TestLine(ChartLaws):
    def make(self):
        return ln.Line(weights(0), *directions(1))


class TestLineOfHalves(ChartLaws):
    def make(self):
        return ln.Line(weights(0, torch.bfloat16), *directions(1))


class TestPlane(ChartLaws):
    def make(self):
        return ln.Plane(weights(0), *directions(2))


class TestVolume(ChartLaws):
    def make(self):
        return ln.Volume(weights(0), *directions(3))


class TestRescaledLine(ChartLaws):
    def make(self):
        return ln.RescaledLine(weights(0), *directions(1))


class TestRescaledBilinear(ChartLaws):
    coords = (0.3, 0.4)

    def make(self):
        return ln.RescaledBilinear(weights(0), *directions(2))


class TestAround(ChartLaws):
    def make(self):
        return ln.Plane(weights(0), *directions(2)).around([0.2, -0.4])


class TestQuadraticPath(ChartLaws):
    def make(self):
        return QuadraticPath(*(weights(i, torch.float64) for i in range(3)))


class Segment(Chart):
    """What is broken below: a line from a to b."""

    dims = ("t",)

    def __init__(self, a, b):
        super().__init__({"a": a, "b": b})

    def _at(self, coords, points):
        (t,), a, b = coords, points["a"], points["b"]
        return {name: (1 - t) * a[name] + t * b[name] for name in a}


class Named(Segment):
    dims = ("the t",)


class WithAMemory(Segment):
    calls = 0

    def _at(self, coords, points):
        self.calls += 1
        return super()._at([coords[0] + (1e-3 * self.calls if coords[0] else 0.0)], points)


class WithOtherTypes(Segment):
    def _at(self, coords, points):
        return dict(reversed(super()._at(coords, points).items()))

    def _map(self, coords):
        return self._at(list(coords), self.points)


class Writing(Segment):
    def _at(self, coords, points):
        for tensor in points["b"].values():
            tensor *= 1.5
        return dict(points["a"])


class WithACache(Segment):
    def __init__(self, a, b):
        self.first, self.second = a, b
        super().__init__(a, b)

    def _at(self, coords, points):
        return super()._at(coords, {"a": self.first, "b": self.second})


class NotRemade(Segment):
    def __init__(self, ends):
        super().__init__(*ends)


class Rounding(Segment):
    def _at(self, coords, points):
        return {name: tensor.float() for name, tensor in super()._at(coords, points).items()}


class Misplaced(Segment):
    def places(self):
        return {"a": (0.0,), "b": (0.5,)}


class WithOtherTangents(Segment):
    def tangents(self, coords):
        return tuple({name: 2 * tensor for name, tensor in tangent.items()} for tangent in super().tangents(coords))


class WithOtherBending(Segment):
    def bending(self, coords, covector):
        return super().bending(coords, covector) + 100.0


class SaidToBeAffine(Segment):
    affine = True

    def _at(self, coords, points):
        return super()._at([coords[0] ** 2], points)


class Projecting(Segment):
    def project(self, params):
        return super().project(params)._replace(residual=9.0)


class OffCentre(Segment):
    def __call__(self, coords):
        made = super().__call__(coords)
        return made if np.any(coords) else {name: tensor + 1 for name, tensor in made.items()}


class Root(Segment):
    """Defined below 4 alone, and not linear."""

    def _at(self, coords, points):
        return super()._at([2 - np.sqrt(4 - coords[0])], points)


class Described(Segment):
    def describe(self):
        return super().describe() | {"points": [], "center": "", "center_norm": 0.0, "signature": []}


class DescribedByAnObject(Segment):
    def describe(self):
        return super().describe() | {"state": {1, 2}}


class Staying(Segment):
    def __init__(self, a, b):
        super().__init__(a, b)
        self.function = lambda: None  # which no engine can send


class Unkept(Segment):
    def __init__(self, a, b, power=1):
        self.power = power
        super().__init__(a, b)

    def _at(self, coords, points):
        return super()._at([coords[0] ** self.power], points)


class NotEvaluated(Segment):
    def fitted(self, objective):
        return self.replacing({"b": self.points["a"]})


BROKEN = {
    "test_coordinates_have_names": Named,
    "test_origin_is_the_centre": OffCentre,
    "test_points_have_the_form_of_the_control_points": WithOtherTypes,
    "test_same_coordinates_give_the_same_point": WithAMemory,
    "test_control_points_are_left_alone": Writing,
    "test_the_map_is_of_the_control_points_it_is_given": WithACache,
    "test_it_is_the_same_map_in_float64": Rounding,
    "test_places_of_control_points_are_met": Misplaced,
    "test_tangents_are_derivatives": WithOtherTangents,
    "test_bending_is_the_second_derivative": WithOtherBending,
    "test_an_affine_chart_is_its_basis": SaidToBeAffine,
    "test_projection_inverts_it": Projecting,
    "test_description_is_complete": Described,
    "test_it_travels": Staying,
    "test_it_is_made_again_from_what_is_kept": Unkept,
    "test_it_is_evaluated": NotEvaluated,
}


MAY_RAISE = {"test_it_travels": (AttributeError,), "test_it_is_made_again_from_what_is_kept": (ln.LossnavError,)}


def laws_of(kind, **options):
    class Mine(ChartLaws):
        def make(self):
            return kind(*(weights(i) for i in range(2)), **options)

    return Mine()


def test_the_segment_itself_breaks_none():
    check_chart(lambda: Segment(weights(0), weights(1)))


def test_every_law_has_a_chart_that_breaks_it():
    assert sorted(BROKEN) == ChartLaws.names()


@pytest.mark.parametrize("law", BROKEN)
def test_the_law_can_fail(law, monkeypatch):
    kind = BROKEN[law]
    options = {}
    if kind is Unkept:
        monkeypatch.setitem(registry._KINDS, "Unkept", registry.ChartKind(Unkept))
        options = {"power": 2}
    with pytest.raises((AssertionError, *MAY_RAISE.get(law, ()))) as broken:
        getattr(laws_of(kind, **options), law)()
    assert str(broken.value)


@pytest.mark.parametrize("kind", [NotRemade, DescribedByAnObject])
def test_further_breaches_are_found(kind):
    make = (lambda: kind((weights(0), weights(1)))) if kind is NotRemade else (lambda: kind(weights(0), weights(1)))
    with pytest.raises(AssertionError, match=r"not made of its control points|JSON does not give back"):
        check_chart(make)


def test_laws_look_where_they_are_told():
    check_chart(lambda: Root(weights(0), weights(1)), coords=[1.5])
    with pytest.raises(AssertionError), np.errstate(invalid="ignore"):
        check_chart(lambda: Root(weights(0), weights(1)), coords=[4.5])
    with pytest.raises(TypeError, match="no attribute 'where'"):
        ChartLaws.check(lambda: None, where=[1])


def test_the_laws_are_documented():
    for law in itertools.chain(ChartLaws.names()):
        assert getattr(ChartLaws, law).__doc__.endswith(".")
