"""Checkpoints lie on a chart by their weights: also where the centre is none of the ends that its directions join."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lossnav as ln
from lossnav._utils.simplex import Triangulation
from lossnav.acceleration import ChartFunction
from lossnav.directions.between_points import between, through
from lossnav.directions.drawn import random
from lossnav.errors import ChartError, CheckpointMismatchError, DirectionError, StructureMismatchError
from networks_with_buffers import data, plain_loss, trained

KINDS = ("BatchNorm1d", "mean and std", "spectral_norm", "integer table")


def objective_of(model):
    return ln.Objective(model, F.cross_entropy, data(), batch_size=16)


def mean_of(models, weights, statistics_of=None):
    """A network whose weights are a mean; its buffers those of another, or the means (whole numbers: of the first)."""
    made = copy.deepcopy(models[0])
    parameters = dict(made.named_parameters())
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name in parameters or (statistics_of is None and tensor.is_floating_point()):
                of_all = [model.state_dict()[name].double() for model in models]
                tensor.copy_(sum(w * t for w, t in zip(weights, of_all, strict=True)))
            elif statistics_of is not None:
                tensor.copy_(statistics_of.state_dict()[name])
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_a_line_around_a_mean_ends_in_the_networks_themselves(kind, share):
    a, b, other = (trained(kind, seed) for seed in (0, 1, 2))
    middle = mean_of([a, b], [1 - share, share], statistics_of=other)
    objective = objective_of(a)
    for center in (middle, objective_of(middle), middle.state_dict()):
        line = ln.Line(center, between(a, b))
        for at, model in ((0.0, middle), (1 - share, b), (-share, a)):
            assert ChartFunction(objective, line)([at])["loss"] == pytest.approx(plain_loss(model), rel=3e-6), at


def test_buffers_go_from_the_first_to_the_mean_to_the_second():
    a, b, other = (trained("BatchNorm1d", seed) for seed in (0, 1, 2))
    middle = mean_of([a, b], [0.5, 0.5], statistics_of=other)
    line = ln.Line(middle, between(a, b))
    means = [model[1].running_mean.double() for model in (a, middle, b)]
    for at, expected in (
        (-0.25, (means[0] + means[1]) / 2), (0.125, 0.75 * means[1] + 0.25 * means[2]), (2.0, means[2])
    ):  # fmt: skip
        found = line.buffers([at])["1.running_mean"].double()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_point_of_a_line_is_the_centre_of_the_same_line():
    a, b = (trained("BatchNorm1d", seed) for seed in (0, 1))
    whole = ln.Line(a, between(a, b))
    around = ln.Line(whole([0.5]), between(a, b))
    objective = objective_of(a)
    for at in (-0.5, -0.2, 0.0, 0.3, 0.5, 1.0):
        expected = ChartFunction(objective, whole)([at + 0.5])["loss"]
        assert ChartFunction(objective, around)([at])["loss"] == pytest.approx(expected, rel=3e-6)


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("count", [3, 4])
def test_around_the_mean_of_several_all_of_them_and_the_mean_are_their_own(orthogonal, count):
    models = [trained("BatchNorm1d", seed) for seed in range(count)]
    middle = mean_of(models, [1 / count] * count, statistics_of=trained("BatchNorm1d", 9))
    directions = through(*models, orthogonal=orthogonal)
    chart = (ln.Plane if count == 3 else ln.Volume)(middle, *directions)
    places = np.asarray(directions[0].recipe["places"])
    objective = objective_of(models[0])
    assert ChartFunction(objective, chart)([0.0] * (count - 1))["loss"] == pytest.approx(plain_loss(middle), rel=3e-6)
    for place, model in zip(places - places.mean(0), models, strict=True):
        assert ChartFunction(objective, chart)(place)["loss"] == pytest.approx(plain_loss(model), rel=5e-6)


def test_beside_a_drawn_direction_and_in_bfloat16_too():
    a, b = (trained("BatchNorm1d", seed) for seed in (0, 1))
    middle = mean_of([a, b], [0.5, 0.5])
    plane = ln.Plane(middle, between(a, b), *random(objective_of(a), n=1, seed=3, lazy=True))
    assert torch.equal(plane.buffers([0.5, 0.7])["1.running_mean"], b[1].running_mean)
    half = [copy.deepcopy(model).bfloat16() for model in (a, b)]
    line = ln.Line(mean_of(half, [0.5, 0.5]), between(*half))
    assert torch.equal(line.buffers([0.5])["1.running_mean"], half[1][1].running_mean)


def test_who_has_the_weights_of_a_point_and_other_buffers_is_refused():
    a, b = (trained("BatchNorm1d", seed) for seed in (0, 1))
    middle = mean_of([a, b], [0.5, 0.5])
    other = copy.deepcopy(b)
    other[1].running_mean.add_(1)
    with pytest.raises(ChartError, match="running_mean"):
        ln.Line(other, between(a, b))
    with pytest.raises(DirectionError, match="parallel or dependent"):
        ln.Plane(a, between(a, b), between(a, middle))


def test_a_triangulation_is_exact_at_corners_and_continuous_between():
    rng = np.random.default_rng(0)
    for k, m in ((1, 4), (2, 5), (3, 6), (2, 3)):
        corners = rng.normal(size=(m, k))
        metric = np.cov(rng.normal(size=(k, 20))).reshape(k, k) + np.eye(k)
        hull = Triangulation(corners, metric)
        for n, corner in enumerate(corners):
            assert hull.weights(corner).tolist() == np.eye(m)[n].tolist()
        for inside in rng.dirichlet(np.ones(m), 50) @ corners:
            weights = hull.weights(inside)
            assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
            np.testing.assert_allclose(weights @ corners, inside, atol=1e-9)
            np.testing.assert_allclose(hull.weights(inside + 1e-9), weights, atol=1e-6)
            assert hull.holds(inside[None])[0]
        far = 50 * rng.normal(size=k)
        tried = rng.dirichlet(np.full(m, 0.3), 20000) @ corners
        off = tried - far
        best = np.sqrt(np.einsum("ij,jk,ik->i", off, metric, off).min())
        own = hull.weights(far) @ corners - far
        assert np.sqrt(own @ metric @ own) <= best * (1 + 1e-9) and not hull.holds(far[None])[0]


@pytest.mark.parametrize("values", [(2.0, 3.0), (torch.ones(2), torch.zeros(2)), ({"k": [1]}, {"k": [2]})])
def test_extra_state_of_modules_is_the_same_or_refused(values):
    class Scaled(torch.nn.Linear):
        scale = None

        def get_extra_state(self):
            return self.scale

        def set_extra_state(self, state):
            self.scale = state

    def made(scale, seed):
        torch.manual_seed(seed)
        model = Scaled(6, 3).eval()
        model.scale = scale
        return model

    a, same, other = made(values[0], 0), made(copy.deepcopy(values[0]), 1), made(values[1], 1)
    objective = objective_of(a)
    for end in (same, same.state_dict(), objective_of(same)):
        found = ChartFunction(objective, ln.Line(a, between(a, end)))([1.0])["loss"]
        assert found == pytest.approx(plain_loss(same), rel=1e-6)
    objective.at(same.state_dict())
    for end in (other, other.state_dict(), objective_of(other)):
        with pytest.raises(StructureMismatchError, match="_extra_state"):
            ln.Line(a, between(a, end)).fitted(objective)
    with pytest.raises(CheckpointMismatchError, match="_extra_state"):
        objective.at(other.state_dict())
