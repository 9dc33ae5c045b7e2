"""Directions are what they say: orthogonal, of the right norms, reproducible."""

import itertools

import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import directions, errors
from lossnav import params as algebra

EVERYTHING = ()  # exclude nothing


def filter_norms(objective, tensors, name):
    return algebra.to_filters(tensors[name].double(), objective.transposed.get(name)).norm(dim=1)


@pytest.fixture(params=["everything", "cnn"])
def any_objective(request, objective, digits_objective):
    return objective if request.param == "everything" else digits_objective


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("exclude", [("bias", "norm"), EVERYTHING])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_every_filter_has_the_weights_norm_and_directions_are_orthogonal(any_objective, n, exclude, distribution):
    found = directions.random(any_objective, n, normalize="filter", exclude=exclude, distribution=distribution, seed=7)
    for a, b in itertools.combinations(found, 2):
        assert abs(algebra.dot(a, b)) <= 1e-6 * algebra.norm(a) * algebra.norm(b)
    for i, direction in enumerate(found):
        left_out = 0
        for name in direction:
            if name in direction.recipe["excluded"]:
                assert not direction[name].any()
                continue
            wanted = filter_norms(any_objective, any_objective.params, name)
            got = filter_norms(any_objective, direction, name)
            entries = any_objective.params[name].numel() // len(wanted)
            if entries <= i:  # a filter of m entries has m orthogonal directions
                left_out += len(wanted)
                assert not got.any()
            else:
                assert torch.allclose(got, wanted, rtol=1e-6, atol=0)
        assert direction.recipe["filters_left_out"] == left_out


def test_one_element_filters_are_in_the_first_direction_only(objective):
    d1, d2 = directions.random(objective, 2)
    assert d1["depthwise.weight"].all()
    assert not d2["depthwise.weight"].any()
    assert d2.recipe["filters_left_out"] == 4  # the depthwise filters; the gain is a scale and stays
    assert directions.random(objective, 2, exclude=())[1].recipe["filters_left_out"] >= 4 + 1


def test_biases_and_norms_stay_by_default_and_tied_weights_move_once(objective):
    (d,) = directions.random(objective)
    assert "tied.weight" not in d
    assert set(d.recipe["excluded"]) == {
        name for name in d if name.endswith("bias") or name[:2] == "bn" or name[:4] == "norm" or name == "gain"
    }
    assert {name for name in d if d[name].any()} == {
        "conv.weight", "depthwise.weight", "up.weight", "first.weight", "second.weight"
    }  # fmt: skip


@pytest.mark.parametrize("normalize", ["layer", "weight", None])
def test_other_normalisations_are_orthogonal_too(any_objective, normalize):
    found = directions.random(any_objective, 3, normalize=normalize, seed=1)
    for a, b in itertools.combinations(found, 2):
        assert abs(algebra.cosine(a, b)) < 1e-6
    if normalize == "layer":
        for name, length in found[0].recipe["norms"].items():
            assert length == pytest.approx(algebra.norms(any_objective.params)[name], rel=1e-6)


def test_weight_normalisation_is_zero_where_the_weight_is():
    model = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        model.weight[0] = 0
    objective = ln.Objective(model.eval(), "mse", (torch.ones(2, 4), torch.ones(2, 4)))
    for d in directions.random(objective, 2, normalize="weight"):
        assert not d["weight"][0].any()
        assert d["weight"][1:].all()


def test_same_seed_same_bits_other_seed_other_direction(objective):
    a, b = directions.random(objective, 2, seed=3), directions.random(objective, 2, seed=3)
    assert all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)
    c = directions.random(objective, 2, seed=4)
    assert abs(algebra.cosine(a[0], c[0])) < 0.5
    assert [d.recipe for d in a] == [d.recipe for d in b]


def test_a_draw_depends_on_seed_number_and_name_alone(objective):
    """What is excluded, and how many are asked for, leaves the other tensors' draws as they were."""
    raw = {"normalize": None, "orthogonal": False, "seed": 9}
    (first,) = directions.random(objective, 1, **raw)
    again, second = directions.random(objective, 2, exclude=(), **raw)
    assert torch.equal(first["conv.weight"], again["conv.weight"])
    assert not torch.equal(again["conv.weight"], second["conv.weight"])


def test_global_generators_are_left_alone(objective):
    before = torch.get_rng_state()
    directions.random(objective, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_draws_have_the_distribution_they_say():
    big = ln.Objective.from_function(lambda p: p["w"].sum(), {"w": torch.ones(100, 1000)})
    raw = {"normalize": None, "orthogonal": False}
    normal = directions.random(big, **raw)[0]["w"]
    uniform = directions.random(big, distribution="uniform", **raw)[0]["w"]
    assert abs(normal.mean()) < 0.02
    assert normal.std() == pytest.approx(1, abs=0.02)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)


def test_half_precision_models_get_float32_directions():
    model = nn.Linear(8, 4).to(torch.bfloat16).eval()
    data = (torch.ones(2, 8, dtype=torch.bfloat16), torch.ones(2, 4, dtype=torch.bfloat16))
    objective = ln.Objective(model, "mse", data)
    (d,) = directions.random(objective)
    assert d["weight"].dtype == torch.float32
    assert ln.Line(objective.params, d)([0.1])["weight"].dtype == torch.bfloat16


def test_between_leads_from_one_to_the_other(objective):
    other = {name: tensor + 1 for name, tensor in objective.params.items()}
    line = ln.Line(objective.params, directions.between(objective, objective.around(other)))
    assert all(torch.allclose(line([1.0])[name], other[name]) for name in other)
    with pytest.raises(errors.StructureMismatchError, match="no name and shape is the same"):
        directions.between(objective, {"w": torch.zeros(1)})


def test_normalisers_by_hand():
    d, ref = {"w": torch.tensor([[3.0, 4.0], [0.0, 0.0]])}, {"w": torch.tensor([[0.0, 10.0], [1.0, 0.0]])}
    assert torch.equal(directions.filter_normalize(d, ref)["w"], torch.tensor([[6.0, 8.0], [0.0, 0.0]]))
    assert directions.layer_normalize(d, ref)["w"].norm() == pytest.approx(101**0.5)
    assert torch.equal(directions.weight_normalize(d, ref)["w"], torch.tensor([[0.0, 40.0], [0.0, 0.0]]))
    with pytest.raises(errors.StructureMismatchError, match=r'"w": \(2, 2\) vs \(3,\).*objective.params'):
        directions.filter_normalize(d, {"w": torch.zeros(3)})


def test_unknown_words_are_refused(objective):
    for options, words in (
        ({"normalize": "filters"}, "normalize='filters' is unknown.*'filter'"),
        ({"distribution": "cauchy"}, "cauchy.*uniform"),
        ({"n": 0}, "n=0.*1 or more"),
        ({"exclude": ("conv1.*",)}, "'conv1.*' matches no parameter.*conv.weight"),
        ({"exclude": ("*",)}, "leaves no parameter"),
    ):
        with pytest.raises(errors.OptionError, match=words):
            directions.random(objective, **options)


def test_no_room_for_more_directions_is_said():
    tiny = ln.Objective.from_function(lambda p: p["x"].sum(), {"x": torch.ones(2)})
    for normalize in ("filter", None):
        with pytest.raises(errors.DirectionError, match="Ask for 2 or fewer"):
            directions.random(tiny, 3, normalize=normalize)


# ---------------------------------------------------------------------- from the loss, from training


def network(classes=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes)).eval()
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 4, generator=generator), torch.randint(0, classes, (12,), generator=generator)
    return model, ln.Objective(model, "cross_entropy", (x, y)), x, y


def test_the_gradient_is_that_of_the_loss():
    model, objective, x, y = network()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    found = directions.gradient(objective, exclude="bias")
    for name, parameter in model.named_parameters():
        wanted = torch.zeros_like(parameter) if name.endswith("bias") else parameter.grad
        assert torch.allclose(found[name], wanted, atol=1e-6)
    assert found.recipe["kind"] == "gradient"
    flat = ln.Objective.from_function(lambda p: 0 * p["x"].sum(), {"x": torch.ones(2)})
    with pytest.raises(errors.DirectionError, match="has length 0.0"):
        directions.gradient(flat)


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
def test_hessian_directions_bend_the_loss_as_they_say(which):
    _, objective, _, _ = network()
    double = objective.double()
    found = directions.hessian(double, 3, which=which, tolerance=1e-6)
    assert len(found) == 3
    values = [d.recipe["eigenvalue"] for d in found]
    h = 1e-3
    center = double.evaluate(double.params)["loss"]
    for direction, value in zip(found, values, strict=True):
        assert direction.recipe["norm"] == pytest.approx(1)
        line = ln.Line(double.params, direction)
        bend = (double.evaluate(line([h]))["loss"] - 2 * center + double.evaluate(line([-h]))["loss"]) / h**2
        assert bend == pytest.approx(value, rel=1e-3, abs=1e-6)
    if which == "both":
        assert values[0] > values[2] > 0 > values[1]
    else:
        assert values == sorted(values, reverse=which == "largest")


@pytest.mark.parametrize("make", ["gradient", "hessian"])
def test_directions_from_the_loss_are_made_again_for_a_run_that_goes_on(tmp_path, make):
    _, objective, _, _ = network()
    if make == "gradient":
        chart, grid = ln.Line(objective.params, directions.gradient(objective)), ln.Grid(alpha=(-1, 1, 3))
    else:
        chart = ln.Plane(objective.params, *directions.hessian(objective, exclude="bias"))
        grid = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))
    store = tmp_path / "run.zarr"
    surface = ln.evaluate(objective, chart, grid, store=store)
    assert {"gradient": "gradient of the loss", "hessian": "eigenvector of the Hessian, λ = "}[make] in surface[
        "alpha"
    ].attrs["long_name"]
    assert ln.resume(store, objective)["loss"].equals(surface["loss"])
    moved = objective.at({name: tensor + 0.1 for name, tensor in objective.params.items()})
    with pytest.raises(errors.ChartError, match="because the weights differ"):
        ln.resume(store, moved)


def test_what_cannot_be_made_again_says_so_or_is_kept(tmp_path):
    _, objective, _, _ = network()
    points = [{n: t + i for n, t in objective.params.items()} for i in (0.5, 1.0)]
    points[1]["0.bias"] = points[1]["0.bias"] * 3
    chart = ln.Plane(objective.params, *directions.through(objective, *points))
    grid = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))
    ln.evaluate(objective, chart, grid, store=tmp_path / "bare.zarr")
    with pytest.raises(errors.ChartError, match="'through' cannot be made from its recipe.*save_directions=True"):
        ln.resume(tmp_path / "bare.zarr", objective)
    kept = ln.evaluate(objective, chart, grid, store=tmp_path / "kept.zarr", save_directions=True)
    assert ln.resume(tmp_path / "kept.zarr", objective)["loss"].equals(kept["loss"])


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("n", [3, 4])
def test_a_chart_through_models_holds_them_all(orthogonal, n):
    _, objective, _, _ = network()
    points = [objective.params]
    for seed in range(n - 1):
        (step,) = directions.random(objective, exclude=(), seed=seed)
        points.append({name: tensor + 0.3 * step[name] for name, tensor in objective.params.items()})
    found = directions.through(*points, orthogonal=orthogonal)
    chart = (ln.Plane if n == 3 else ln.Volume)(points[0], *found)
    for point, place in zip(points, found[0].recipe["places"], strict=True):
        assert all(torch.allclose(chart(place)[name], tensor, atol=1e-5) for name, tensor in point.items())
        projection = chart.project(point)
        assert projection.coords == pytest.approx(place, abs=1e-5)
        assert projection.residual < 1e-4
    if orthogonal:
        for a, b in itertools.combinations(found, 2):
            assert abs(algebra.cosine(a, b)) < 1e-6
            assert algebra.norm(a) == pytest.approx(algebra.norm(b), rel=1e-6)


def test_points_on_one_line_span_no_plane():
    a = {"w": torch.zeros(3)}
    with pytest.raises(errors.DirectionError, match="Point 3 of 3 lies in the span"):
        directions.through(a, {"w": torch.ones(3)}, {"w": 2 * torch.ones(3)})
    with pytest.raises(errors.OptionError, match="One point"):
        directions.through(a)


@pytest.mark.parametrize("given", ["optimizer", "state", "named", "objective", "reversed"])
def test_moments_are_adams(given):
    model, objective, x, y = network()
    parameters = list(model.parameters())
    order = parameters[::-1] if given == "reversed" else parameters
    adam = torch.optim.Adam(model.named_parameters() if given == "named" else order, lr=0.01)
    for _ in range(3):
        adam.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        adam.step()
    source = {"optimizer": adam, "state": adam.state_dict(), "named": adam.state_dict()}.get(given, adam)
    first, second = directions.moments(source, objective if given == "objective" else model)
    for name, parameter in model.named_parameters():
        assert torch.equal(first[name], adam.state[parameter]["exp_avg"])
        assert torch.equal(second[name], adam.state[parameter]["exp_avg_sq"])
        assert first[name].data_ptr() != adam.state[parameter]["exp_avg"].data_ptr()  # training goes on beside it
    assert first.recipe["step"] == 3
    assert (first.recipe["moment"], second.recipe["moment"]) == ("exp_avg", "exp_avg_sq")
    ln.Plane(objective.params, first, second)


def test_moments_that_are_not_there_or_not_theirs():
    model, objective, x, y = network()
    with pytest.raises(errors.DirectionError, match="no exp_avg.*taken a step"):
        directions.moments(torch.optim.Adam(model.parameters()), model)
    adam = torch.optim.Adam(list(model.parameters())[:2])
    nn.functional.cross_entropy(model(x), y).backward()
    adam.step()
    with pytest.raises(errors.DirectionError, match="trains 2 parameters and the model has 4"):
        directions.moments(adam.state_dict(), objective)
    first, _ = directions.moments(adam, model)
    assert not first["2.weight"].any()  # it is not trained
    other = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    whole = torch.optim.Adam(model.parameters())
    whole.step()
    with pytest.raises(errors.DirectionError, match=r"shape \(5, 4\) for \"0.weight\".*\(4, 5\)"):
        directions.moments(whole.state_dict(), other)
