"""A chart through checkpoints shows each of them at its place: weights and buffers, whatever a model keeps in these."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import checkpoints
from lossnav.acceleration import ChartFunction
from lossnav.charts.io import open_chart, save_chart
from lossnav.curvature import Hessian
from lossnav.directions.between_points import between, through
from lossnav.directions.drawn import random
from lossnav.engines.plan import Plan
from lossnav.errors import ChartError, CheckpointMismatchError, DirectionError, StructureMismatchError
from networks_with_buffers import FEATURES, IN_A_FILE, KINDS, data, plain_loss, trained

SEEDS = (0, 1, 2, 3)


def objective_of(model, **options):
    return ln.Objective(model, F.cross_entropy, data(), batch_size=16, **options)


def grid_of(chart):
    return ln.Grid(**dict.fromkeys(chart.dims, (0, 1, 2)))


@pytest.fixture(scope="module", params=KINDS)
def family(request):
    """Four networks of a kind, and their losses by torch alone."""
    models = [trained(request.param, seed) for seed in SEEDS]
    return request.param, models, [plain_loss(model) for model in models]


def values_at(objective, chart, places, plan):
    """Losses at places, by the plain path or by a plan held against it there."""
    function = ChartFunction(objective, chart)
    if plan == "plain":
        return [function(np.asarray(place, float))["loss"] for place in places]
    probes = np.asarray([np.zeros(len(chart.dims)), *places], float)
    fast = function.accelerate(probes, 10**9, "native", plan)
    return [fast(np.asarray(place, float))["loss"] for place in places]


@pytest.mark.parametrize("plan", ["plain", "auto"])
@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_at_the_place_of_a_checkpoint_the_loss_is_its_own(family, count, orthogonal, plan):
    _, models, losses = family
    objectives = [objective_of(model) for model in models[:count]]
    chart_of = {2: ln.Line, 3: ln.Plane, 4: ln.Volume}[count]
    directions = through(*objectives, orthogonal=orthogonal)
    chart = chart_of(objectives[0].params, *directions)
    places = directions[0].recipe["places"]
    assert values_at(objectives[0], chart, places, plan) == pytest.approx(losses[:count], rel=1e-6)
    for place, objective in zip(places, objectives, strict=True):
        for name, buffer in chart.buffers(place).items():
            assert torch.equal(buffer, objective.buffers_at(objective.params)[name]), name


@pytest.mark.parametrize("who", [0, 1, 3])
def test_it_does_not_matter_whose_objective_it_is(family, who):
    _, models, losses = family
    line = ln.Line(models[1], between(models[0], models[1]))  # reversed: 0 is its end
    objective = objective_of(models[who])
    assert values_at(objective, line, [[-1.0], [0.0]], "plain") == pytest.approx(losses[:2], rel=1e-6)


def test_a_chain_of_directions_leads_from_checkpoint_to_checkpoint(family):
    _, models, losses = family
    a, b, c, d = models
    plane = ln.Plane(b, between(a, b), between(b, c))
    found = values_at(objective_of(d), plane, [[-1, 0], [0, 0], [0, 1]], "plain")
    assert found == pytest.approx(losses[:3], rel=1e-6)
    volume = ln.Volume(a, between(a, b), between(b, c), between(d, c))
    places = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, -1]]
    assert values_at(objective_of(a), volume, places, "plain") == pytest.approx(losses, rel=1e-6)


def test_curvature_is_that_of_the_network_there(family):
    _, models, _ = family
    a, b = objective_of(models[0]), objective_of(models[1])
    line = ln.Line(a.params, between(a, b))
    towards = {name: torch.sin(torch.arange(t.numel()).reshape(t.shape) + 1.0) for name, t in a.params.items()}
    here, there = Hessian(a, line([1.0])) @ towards, Hessian(b) @ towards
    scale = max(float(product.abs().max()) for product in there.values())
    for name, product in there.items():
        torch.testing.assert_close(here[name], product, rtol=1e-3, atol=1e-4 * scale)
    surface = ln.evaluate_curvature(a, line, ln.Grid(alpha=(0, 1, 2)), progress=False)
    truth = float(np.sqrt(sum(float((g.double() ** 2).sum()) for g in ln.curvature.gradient(b).values())))
    assert float(surface["gradient_norm"][1]) == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize("kind", IN_A_FILE)
def test_ends_are_objectives_modules_files_or_state_dicts(kind, tmp_path):
    models = [trained(kind, seed) for seed in (0, 1)]
    losses = [plain_loss(model) for model in models]
    objective = objective_of(models[0])
    files = [checkpoints.save(model, tmp_path / f"{i}.safetensors") for i, model in enumerate(models)]
    torch.save(models[1].state_dict(), tmp_path / "1.pt")
    states = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    ends = {
        "objectives": [objective, objective_of(models[1])],
        "modules": models,
        "files": files,
        "torch file": [objective, tmp_path / "1.pt"],
        "state dicts": states,
        "wrapped": [models[0], {f"module.{name}": tensor for name, tensor in states[1].items()}],
    }
    for what, (a, b) in ends.items():
        direction = between(a, b)
        for center in (a, objective, objective.params):
            line = ln.Line(center, direction)
            surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 2)), progress=False)
            assert surface["loss"].values == pytest.approx(losses, rel=1e-6), (what, type(center))


def test_three_files_make_a_plane(tmp_path):
    models = [trained("BatchNorm1d", seed) for seed in (0, 1, 2)]
    files = [checkpoints.save(model, tmp_path / f"{i}.safetensors") for i, model in enumerate(models)]
    objective = objective_of(models[2])
    plane = ln.Plane(files[0], *through(*files))
    truth = ln.Plane(objective.at(files[0]), *through(*(objective.at(file) for file in files)))
    places = truth.directions[0].recipe["places"]  # perpendicular in the weights alone
    assert ChartFunction(objective, plane).chart.directions[0].recipe["places"] == places
    assert values_at(objective, plane, places, "plain") == pytest.approx([plain_loss(m) for m in models], rel=1e-6)


def test_between_checkpoints_numbers_are_means_and_others_the_nearest():
    models = [trained("quantised", seed) for seed in (0, 1)]
    a, b = (dict(model.named_buffers()) for model in models)
    b["1.enabled"].fill_(False)
    line = ln.Line(models[0], between(*models))
    for alpha in (0.2, 0.7):
        found = line.buffers([alpha])
        for name in ("1.low", "1.high"):
            assert float(found[name]) == pytest.approx((1 - alpha) * float(a[name]) + alpha * float(b[name]), rel=1e-6)
        nearest = a if alpha < 0.5 else b
        assert int(found["1.zero_point"]) == int(nearest["1.zero_point"])
        assert bool(found["1.enabled"]) == bool(nearest["1.enabled"])
    for alpha, end in ((-0.5, a), (-1e-9, a), (1.5, b), (100.0, b)):
        assert all(torch.equal(t, end[name]) for name, t in line.buffers([alpha]).items()), alpha


def test_half_precision_and_complex_buffers_are_means_too():
    class Kept(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([float(value)]))
            self.register_buffer("low", torch.tensor([value], dtype=torch.bfloat16))
            self.register_buffer("wave", torch.tensor([value + 2j], dtype=torch.complex64))
            self.register_buffer("endless", torch.tensor([-torch.inf, value]))
            self.register_buffer("same", torch.tensor([0.1, torch.nan]))

    line = ln.Line(Kept(1.0), between(Kept(1.0), Kept(4.0)))
    found = line.buffers([1 / 3])
    assert found["low"].dtype == torch.bfloat16 and float(found["low"]) == 2.0
    assert complex(found["wave"]) == pytest.approx(2.0 + 2j, rel=1e-6)
    assert found["endless"].tolist() == [-torch.inf, 2.0]
    assert "same" not in line.moving_buffers


def test_on_a_plane_buffers_follow_the_triangle_of_its_checkpoints():
    models = [trained("BatchNorm1d", seed) for seed in (0, 1, 2)]
    plane = ln.Plane(models[0], *through(*models))
    places = np.array(plane.directions[0].recipe["places"])
    means = [model[1].running_mean.double() for model in models]
    for weights in ([0.2, 0.3, 0.5], [0.0, 0.5, 0.5], [1 / 3] * 3):
        found = plane.buffers(np.array(weights) @ places)["1.running_mean"]
        torch.testing.assert_close(
            found.double(), sum(w * m for w, m in zip(weights, means, strict=True)), rtol=1e-6, atol=1e-6
        )
    rng = np.random.default_rng(0)
    for point in rng.uniform(-3, 3, (20, 2)):  # the nearest of many points of the triangle, found by trying
        tried = rng.dirichlet([0.6] * 3, 20000)
        best = tried[((tried @ places - point) ** 2).sum(1).argmin()]
        found = plane.buffers(point)["1.running_mean"].double()
        torch.testing.assert_close(found, sum(w * m for w, m in zip(best, means, strict=True)), rtol=0, atol=0.1)


def test_a_direction_of_no_checkpoint_holds_buffers():
    a, b = (objective_of(trained("BatchNorm1d", seed)) for seed in (0, 1))
    plane = ln.Plane(a, between(a, b), *random(a, n=1, seed=5))
    for alpha in (0.0, 0.4, 1.0, 1.7):
        line = ln.Line(a, between(a, b)).buffers([alpha])
        for beta in (-2.0, 3.0):
            assert all(torch.equal(t, line[name]) for name, t in plane.buffers([alpha, beta]).items())


@pytest.mark.parametrize("chart_of", [ln.Line, ln.RescaledLine])
def test_around_another_network_its_buffers_hold_everywhere(chart_of):
    models = [trained("mean and std", seed) for seed in (0, 1)]
    a, b = (objective_of(model) for model in models)
    chart = chart_of(b, *random(b, seed=1))
    for alpha in (0.0, 0.3):
        with_b = b.evaluate(dict(chart([alpha])))["loss"]
        assert ChartFunction(a, chart)([alpha])["loss"] == pytest.approx(with_b, rel=1e-6)
    assert ln.Line(b, *random(b, seed=1)).describe() == ln.Line(b.params, *random(b, seed=1)).describe()


def test_a_line_past_other_checkpoints_has_its_centres_buffers():
    a, b, c = (objective_of(trained("BatchNorm1d", seed)) for seed in (0, 1, 2))
    line = ln.Line(c.params, between(a, b))
    truth = c.evaluate(dict(line([1.0])))["loss"]
    assert ChartFunction(c, line)([1.0])["loss"] == pytest.approx(truth, rel=1e-9)
    assert ChartFunction(a, ln.Line(c, between(a, b)))([1.0])["loss"] == pytest.approx(truth, rel=1e-6)


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "kind",
    ["BatchNorm1d", "spectral_norm", "the old spectral_norm", "mean and std", "InstanceNorm", "quantised", "shared"],
)
def test_parameters_alone_are_no_network_where_there_are_buffers(kind):
    a, b, c = (objective_of(trained(kind, seed)) for seed in (0, 1, 2))
    for chart in (
        ln.Line(a.params, between(a.params, b.params)),
        ln.Line(a, between(dict(a.params), dict(b.params))),
        ln.Plane(a.params, *through(a.params, b.params, c.params)),
    ):
        with pytest.raises(
            StructureMismatchError, match=r"the buffers of another network.*Pass something that has both"
        ):
            ln.evaluate(a, chart, grid_of(chart), progress=False)
    with pytest.raises(StructureMismatchError, match="the buffers of another network"):
        between(a, b.params)


def test_parameters_alone_are_enough_where_no_buffer_matters():
    lines = {
        "none": nn.Linear(FEATURES, 3),
        "not persistent": trained("not persistent", 0),
        "counted": nn.Sequential(nn.Linear(FEATURES, 3), nn.BatchNorm1d(3)),
    }
    for what, model in lines.items():
        bn = "recompute" if what == "counted" else "frozen"
        a = objective_of(model.eval(), bn=bn)
        b = {name: tensor + 0.01 for name, tensor in a.params.items()}
        surface = ln.evaluate(a, ln.Line(a.params, between(a.params, b)), ln.Grid(alpha=(0, 1, 2)), progress=False)
        assert float(surface["loss"][1]) == pytest.approx(a.evaluate(b)["loss"], rel=1e-9)


def test_a_file_without_buffers_is_refused_by_name(tmp_path):
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    state = {k: v for k, v in b.state_dict().items() if "running_var" not in k}
    path = checkpoints.save(state, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r'b\.safetensors has no "1\.running_var"'):
        between(objective_of(a), path)
    other = checkpoints.save(
        {k: v for k, v in a.state_dict().items() if "running_var" not in k}, tmp_path / "a.safetensors"
    )
    line = ln.Line(other, between(other, path))
    with pytest.raises(CheckpointMismatchError, match=r'safetensors has no "1\.running_var"'):
        ln.evaluate(objective_of(a), line, ln.Grid(alpha=(0, 1, 2)), progress=False)


def test_what_is_held_must_be_the_same_at_both_ends():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    first = objective_of(a, params="3.*")
    second = objective_of(b, params="3.*")
    line = ln.Line(first.params, between(first, second))
    with pytest.raises(StructureMismatchError, match='another "0.weight"'):
        ln.evaluate(first, line, ln.Grid(alpha=(0, 1, 2)), progress=False)
    with pytest.warns(ln.errors.LossnavWarning, match="1.running_mean"):
        kept = first.at(second.params, missing="keep")
    ln.evaluate(first, ln.Line(first, between(first, kept)), ln.Grid(alpha=(0, 1, 2)), progress=False)


def test_a_centre_with_weights_of_an_end_and_other_buffers_is_refused():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    odd = copy.deepcopy(a)
    odd[1].running_mean.add_(1.0)
    with pytest.raises(ChartError, match=r"1\.running_mean"):
        ln.Line(odd, between(a, b))


def test_a_state_dict_that_is_trained_on_is_noticed():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    line = ln.Line(a.state_dict(), between(a.state_dict(), b.state_dict()))
    with torch.no_grad():
        b[0].weight.add_(1.0)
    with pytest.raises(DirectionError, match="has changed since"):
        ln.evaluate(objective_of(a), line, ln.Grid(alpha=(0, 1, 2)), progress=False)


def test_training_on_after_a_line_was_made_does_not_move_its_ends():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    line, truth = ln.Line(a, between(a, b)), plain_loss(b)
    objective = objective_of(a)
    with torch.no_grad():
        b[0].weight.add_(1.0)
        b[1].running_mean.add_(1.0)
    assert ChartFunction(objective, line)([1.0])["loss"] == pytest.approx(truth, rel=1e-6)


# ---------------------------------------------------------------------- bn=, recipes, stores


def test_recomputed_statistics_are_recomputed_and_other_buffers_move():
    def build(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(KINDS["mean and std"]()[0], nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        model.train()(data()[0] * (seed + 1))
        return model.eval()

    a, b = build(0), build(1)
    for bn in ("recompute", "batch"):
        objective = objective_of(a, bn=bn)
        line = ln.Line(a, between(a, b))
        x, y = data()
        hidden = b[1]((x - b[0].mean) / b[0].std)
        if bn == "recompute":
            parts = hidden.split(16)
            mean = torch.stack([part.mean(0) for part in parts]).mean(0)
            var = torch.stack([part.var(0) for part in parts]).mean(0)
            hidden = (hidden - mean) / (var + b[2].eps).sqrt()
        else:
            hidden = torch.cat([(p - p.mean(0)) / (p.var(0, correction=0) + b[2].eps).sqrt() for p in hidden.split(16)])
        truth = float(F.cross_entropy(b[3](hidden * b[2].weight + b[2].bias), y).detach())
        assert ChartFunction(objective, line)([1.0])["loss"] == pytest.approx(truth, rel=1e-5)


def test_runs_with_other_buffers_are_told_apart(tmp_path):
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    other = copy.deepcopy(b)
    other[1].running_mean.add_(0.5)
    objective, grid = objective_of(a), ln.Grid(alpha=(0, 1, 3))
    line, another = ln.Line(a, between(a, b)), ln.Line(a, between(a, other))
    surface = ln.evaluate(objective, line, grid, store=tmp_path / "run.zarr", save_directions=True, progress=False)
    said = surface.attrs["chart"]["buffers"]
    assert said["moved"] == ["1.running_mean", "1.running_var"]
    assert [point["at"] for point in said["points"]] == [[0.0], [1.0]]
    with pytest.raises(ln.errors.PlanMismatchError, match="buffers"):
        ln.evaluate(objective, another, grid, store=tmp_path / "run.zarr", progress=False)
    finer = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 5)), resume=surface, progress=False)
    assert finer["loss"].values[::2] == pytest.approx(surface["loss"].values, rel=1e-12)
    again = ln.resume(tmp_path / "run.zarr", objective, progress=False)
    assert again.attrs["chart"] == surface.attrs["chart"]


def test_a_kept_chart_keeps_its_buffers(tmp_path):
    models = [trained("quantised", seed) for seed in (0, 1, 2)]
    objective = objective_of(models[0])
    plane = ln.Plane(models[0], *through(*models)).fitted(objective)
    save_chart(plane, tmp_path / "chart.safetensors")
    description = json.loads(json.dumps(plane.describe()))
    again = open_chart(description, objective, tmp_path / "chart.safetensors")
    for point in ([0.0, 0.0], [1.0, 0.0], [0.3, 0.4], [-1.0, 2.0]):
        one, other = plane.buffers(point), again.fitted(objective).buffers(point)
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert again.fitted(objective).describe() == plane.describe()
    assert ChartFunction(objective, again)([1.0, 0.0])["loss"] == pytest.approx(plain_loss(models[1]), rel=1e-6)


def test_around_another_point_the_picture_stays():
    models = [trained("BatchNorm1d", seed) for seed in (0, 1, 2)]
    objective = objective_of(models[0])
    plane = ln.Plane(models[0], *through(*models)).fitted(objective)
    moved = plane.around([0.25, 0.5])
    for point in ([0.0, 0.0], [0.75, -0.5], [1.0, 2.0]):
        truth = objective.evaluate(plane(np.add(point, [0.25, 0.5])))["loss"]
        assert objective.evaluate(moved(point))["loss"] == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(batch_size=12),
        Plan(batch_size=24, fold_batch_norm=True),
        Plan(batch_size=24, amortize_first_layer=True, fold_batch_norm=True),
        Plan(batch_size=48, onednn_linear=True),
        Plan(batch_size=48, points=2),
        Plan(batch_size=48, fused=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "mean and std"])
def test_every_plan_takes_the_buffers_of_its_point(kind, plan):
    models = [trained(kind, seed) for seed in (0, 1)]
    objective = objective_of(models[0])
    line = ln.Line(models[0], between(*models))
    function = ChartFunction(objective, line)
    probes = np.array([[0.0], [0.3], [1.0], [1.4]])
    try:
        fast = function.accelerate(probes, 10**9, "native", plan)
    except Exception as error:
        pytest.skip(f"this plan is not for this model or machine: {error}")
    for place in ([0.6], [1.0], [-0.2]):
        assert fast(np.array(place))["loss"] == pytest.approx(function(np.array(place))["loss"], rel=2e-6)
    assert fast(np.array([1.0]))["loss"] == pytest.approx(plain_loss(models[1]), rel=2e-6)


def test_the_report_says_which_buffers_move_and_where_they_are_held():
    models = [trained("BatchNorm1d", seed) for seed in (0, 1)]
    objective, line = objective_of(models[0]), ln.Line(models[0], between(*models))
    inside = ln.report(ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 5)), progress=False))["buffers"]
    assert inside.level == "ok" and inside.values["moved"] == ["1.running_mean", "1.running_var"]
    beyond = ln.report(ln.evaluate(objective, line, ln.Grid(alpha=(-0.5, 1.5, 9)), progress=False))["buffers"]
    assert beyond.level == "note" and beyond.values["outside"] == 4
    assert "at the nearest interpolated values" in beyond.said and "1.running_mean" in beyond.said
    plain = ln.Line(objective.params, *random(objective, seed=0))
    stay = ln.report(ln.evaluate(objective, plain, ln.Grid(alpha=(0, 1, 5)), progress=False))["buffers"]
    assert stay.level == "ok" and stay.values["buffers"] == 3 and "keep the objective's values" in stay.said


def test_the_users_models_are_as_before():
    models = [trained("BatchNorm1d", seed) for seed in (0, 1)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    objective = objective_of(models[0])
    ln.evaluate(objective, ln.Line(models[0], between(*models)), ln.Grid(alpha=(-0.5, 1.5, 9)), progress=False)
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
