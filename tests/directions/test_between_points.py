"""Directions between networks: what is in the way of one, and what their multiples and sums are."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav.errors import DeviceError, DirectionError, LossnavWarning, StructureMismatchError
from lossnav.evaluation.resume import chart_of
from networks_with_buffers import objective_of, plain_loss, trained


def with_other_buffers(model, shift=0.5):
    other = copy.deepcopy(model)
    for buffer in other.buffers():
        if buffer.is_floating_point():
            buffer += shift
    return other


# ---------------------------------------------------------------------- the same weights


@pytest.mark.parametrize("kind", ["BatchNorm1d", "mean and std"])
@pytest.mark.parametrize("as_files", [False, True])
def test_networks_that_differ_in_buffers_alone(kind, as_files, tmp_path):
    a = trained(kind, 0)
    b, objective = with_other_buffers(a), objective_of(a)
    ends = (a, b)
    if as_files:
        for name, model in zip("ab", ends, strict=True):
            torch.save(model.state_dict(), tmp_path / f"{name}.pt")
        ends = tmp_path / "a.pt", tmp_path / "b.pt"
    words = r"have the same weights and differ only in \d+ buffers \(\".*a chart does not move"
    with pytest.raises(DirectionError, match=words):
        ln.Line(objective, ln.directions.between(objective, ends[1]))
    with pytest.raises(DirectionError, match=words):
        ln.evaluate(objective, ln.Line(ends[0], ln.directions.between(*ends)), ln.Grid(alpha=(0, 1, 2)))
    with pytest.raises(DirectionError, match=words):
        ln.directions.through(objective, objective_of(trained(kind, 1)), ends[1])
    names = [n for n, t in b.named_buffers() if t.is_floating_point()]  # what the message says to type
    here, there = dict(a.named_buffers()), dict(b.named_buffers())
    for t in (0.0, 0.25, 1.0):
        found = objective.evaluate(objective.params, {n: torch.lerp(here[n], there[n], t) for n in names})["loss"]
        assert found == pytest.approx(plain_loss(with_other_buffers(a, 0.5 * t)), rel=1e-5)


def test_the_same_network_twice():
    a = trained("BatchNorm1d", 0)
    with pytest.raises(DirectionError, match="have the same weights, so no direction leads"):
        ln.Line(objective_of(a), ln.directions.between(a, copy.deepcopy(a)))
    with pytest.raises(DirectionError, match="have the same weights, so no direction leads"):
        ln.directions.through(a, copy.deepcopy(a), trained("BatchNorm1d", 1))
    with pytest.raises(DirectionError, match="along alpha is zero"):
        ln.Line(objective_of(a), {name: torch.zeros_like(t) for name, t in a.named_parameters()})


# ---------------------------------------------------------------------- multiples and sums


def losses(objective, chart, places):
    return [objective.evaluate(chart(place))["loss"] for place in places]


@pytest.mark.parametrize("factor", [-1, 2.0, 0.25, np.float32(-3)])
def test_a_multiple_leads_to_the_same_checkpoints(factor):
    a, b, c = (trained("BatchNorm1d", seed) for seed in (0, 1, 2))
    objective = objective_of(a)
    truth = [plain_loss(a), plain_loss(b)]
    d = ln.directions.between(objective, b)
    for made in (factor * d, d * factor, d / (1 / float(factor)), *([-d] if factor == -1 else [])):
        line = ln.Line(objective, made)
        assert line.moving_buffers == ln.Line(objective, d).moving_buffers != []
        assert losses(objective, line, [[0.0], [1 / float(factor)]]) == pytest.approx(truth, rel=1e-5)
        half = ln.Line(objective, d)([0.5]), line([0.5 / float(factor)])
        for name, buffer in half[0].buffers.items():
            torch.testing.assert_close(half[1].buffers[name], buffer)
    first, second = ln.directions.through(objective, b, c)
    places = np.array(first.recipe["places"])
    plane = ln.Plane(objective, factor * first, second)
    places[:, 0] /= float(factor)
    assert losses(objective, plane, places) == pytest.approx([*truth, plain_loss(c)], rel=1e-5)


def test_a_multiple_of_a_multiple_and_its_copies():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    objective = objective_of(a)
    d = ln.directions.between(a, b)
    for made in (-(2 * d) / 4, (-0.5 * d).copy(), copy.copy(-0.5 * d), pickle.loads(pickle.dumps(-0.5 * d))):
        assert made.recipe["times"] == -0.5
        line = ln.Line(objective, made)
        assert losses(objective, line, [[-2.0]]) == pytest.approx([plain_loss(b)], rel=1e-5)


def test_a_chart_of_a_multiple_is_made_again(tmp_path):
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    objective = objective_of(a)
    torch.save(b.state_dict(), tmp_path / "b.pt")
    line = ln.Line(objective, -2 * ln.directions.between(objective, tmp_path / "b.pt"))
    grid = ln.Grid(alpha=(-0.5, 0, 3))
    surface = ln.evaluate(objective, line, grid, store=tmp_path / "run.zarr")
    assert surface["loss"].values[[0, -1]] == pytest.approx([plain_loss(b), plain_loss(a)], rel=1e-5)
    again = chart_of(json.loads(json.dumps(surface.attrs)), objective, tmp_path / "run.zarr")
    assert losses(objective, again, [[-0.5]]) == pytest.approx([plain_loss(b)], rel=1e-5)
    assert ln.resume(tmp_path / "run.zarr", objective)["loss"].equals(surface["loss"])


def test_sums_with_directions_between_checkpoints_are_refused():
    a, b, c = (trained("BatchNorm1d", seed) for seed in (0, 1, 2))
    objective = objective_of(a)
    d, e = ln.directions.between(a, b), ln.directions.between(a, c)
    (random,) = ln.directions.random(objective)
    for call in (lambda: d + e, lambda: d - e, lambda: d + random, lambda: random - d, lambda: random + d):
        with pytest.raises(DirectionError, match="leads to none of them.*ln.directions.through"):
            call()


def test_sums_of_other_directions_are_given_ones():
    objective = objective_of(trained("BatchNorm1d", 0))
    d, e = ln.directions.random(objective, n=2)
    for made, factors in (
        (d + e, (1, 1)),
        (d - e, (1, -1)),
        (-d, (-1, 0)),
        (3 * e, (0, 3)),
        (d / 2 - dict(e), (0.5, -1)),
    ):
        assert made.recipe["kind"] == "given"
        for name, tensor in made.items():
            torch.testing.assert_close(tensor, factors[0] * d[name] + factors[1] * e[name])
        assert ln.Line(objective, made).describe()["directions"][0]["norm"] == pytest.approx(made.recipe["norm"])
    with pytest.raises(StructureMismatchError):
        d + {"other": torch.ones(2)}
    with pytest.raises(TypeError):
        d * "2"
    (lazy,) = ln.directions.random(objective, lazy=True)
    for call in (lambda: -lazy, lambda: 2 * lazy, lambda: lazy / 2, lambda: lazy + d):
        with pytest.raises(DirectionError, match="lazy"):
            call()


def test_what_normalising_loses_is_said():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    d, reference = ln.directions.between(a, b), dict(a.named_parameters())
    for normalize in (ln.directions.filter_normalize, ln.directions.layer_normalize, ln.directions.weight_normalize):
        with pytest.warns(LossnavWarning, match=r"does not use their .*1\.running_mean"):
            normalize(d, reference)
        normalize(dict(d), reference)  # a dict of tensors, which nobody takes for more


def test_on_the_meta_device_there_is_no_loss():
    batch = torch.ones(2, 3), torch.ones(2, 1)
    with pytest.raises(DeviceError, match="meta device have no values. Leave out device="):
        ln.Objective(torch.nn.Linear(3, 1), "mse", batch, device="meta")
