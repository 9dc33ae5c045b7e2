"""What moves: by default what the user trains; and the same for everything that is made of a model."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr
from torch import nn
from typer.testing import CliRunner

import lossnav as ln
from lossnav import errors
from lossnav._utils.moving import select_moving
from lossnav.cli import app
from lossnav.directions.between_points import between, through
from lossnav.specs.objective_of import load_objective

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def network(seed=0, frozen=("0.",)):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(frozen)))
    return model


def objective_of(model, **options):
    return ln.Objective(model, "cross_entropy", (X, Y), **options)


def loss_of(model):
    with torch.no_grad():
        return float(F.cross_entropy(model(X), Y))


def names_of(model, trained=True):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad or not trained]


# ---------------------------------------------------------------------- the rule


def test_what_the_user_trains_moves():
    model = network()
    objective = objective_of(model)
    assert list(objective.params) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(loss_of(model), rel=1e-6)
    assert list(objective.roles) == list(objective.params)
    assert not model[0].weight.requires_grad and model[2].weight.requires_grad
    said = objective.describe()
    assert (said["parameters"], said["parameters_held"]) == (48, 25)
    assert said["held"] == ["0.weight", "0.bias"]
    assert said["moves"] == {
        "params": "trainable",
        "tensors": 4,
        "frozen": {"tensors": 0, "numbers": 0, "names": []},
    }


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ("all", ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]),
        ("*", ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]),
        ("0.weight", ["0.weight"]),
        (["trainable", "0.bias"], ["0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]),
        ("*.bias", ["0.bias", "2.bias", "4.bias"]),
        ("trainable", ["2.weight", "2.bias", "4.weight", "4.bias"]),
    ],
)
def test_words_and_patterns(params, names):
    model = network()
    assert list(objective_of(model, params=params).params) == names
    assert list(objective_of(model).moving(params).params) == names
    assert select_moving(dict(model.named_parameters()), params) == names
    displaced = objective_of(model, params=params)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1 if name in names else 0.0)
    here = {name: tensor + 0.1 for name, tensor in displaced.params.items()}
    assert displaced.evaluate(here)["loss"] == pytest.approx(loss_of(model), rel=1e-6)


def test_a_model_of_which_nothing_is_trained_moves_as_a_whole(tmp_path):
    model = network(frozen=("",))
    assert not any(p.requires_grad for p in model.parameters())
    assert list(objective_of(model).params) == names_of(model, trained=False)
    assert list(ln.Trajectory(model, store=tmp_path / "run")[0]) == names_of(model, trained=False)
    assert list(between(model, network(1, frozen=("",)))) == names_of(model, trained=False)


def test_tensors_of_a_bare_function_all_move():
    params = {"a": torch.ones(2), "b": torch.ones(2, requires_grad=True), "c": nn.Parameter(torch.ones(1), False)}
    bowl = ln.Objective.from_function(lambda p: sum((t**2).sum() for t in p.values()), params)
    assert list(bowl.params) == ["a", "b", "c"]
    assert bowl.describe()["moves"]["params"] == "all"


def test_looking_at_the_models_own_weights():
    model = network()
    objective = objective_of(model, copy=False)
    assert list(objective.params) == names_of(model)
    assert objective.params["2.weight"].data_ptr() == model[2].weight.data_ptr()
    assert objective.moving("all").params["0.weight"].data_ptr() == model[0].weight.data_ptr()


def test_a_tied_weight_is_one_weight():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.out.weight = self.embed.weight
            self.first = nn.Linear(4, 4)

        def forward(self, x):
            return self.out(self.first(self.embed(x)))

    torch.manual_seed(0)
    model, tokens = Tied(), torch.arange(5)
    model.out.weight.requires_grad_(False)
    objective = ln.Objective(model, "cross_entropy", (tokens, tokens))
    assert list(objective.params) == ["first.weight", "first.bias"]
    everything = objective.moving("all")
    there = {name: 0.5 * tensor for name, tensor in everything.params.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        assert everything.evaluate(there)["loss"] == pytest.approx(float(F.cross_entropy(model(tokens), tokens)), 1e-6)


def test_a_frozen_original_of_a_parametrization():
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    model[0].parametrizations.weight.original1.requires_grad_(False)  # its direction; the magnitude is trained
    objective = objective_of(model)
    assert "0.parametrizations.weight.original1" not in objective.params
    assert "0.parametrizations.weight.original0" in objective.params


def test_frozen_parameters_and_buffers_are_each_checkpoints_own():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.register_buffer("shift", torch.full((4,), scale))
            self.scale = nn.Parameter(torch.full((4,), scale), requires_grad=False)
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x * self.scale + self.shift)

    a, b = Scaled(1.0), Scaled(2.0)
    objective = objective_of(a)
    assert list(objective.params) == ["layer.weight", "layer.bias"]
    line = ln.Line(a, between(a, b))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 3)), progress=False)
    middle = copy.deepcopy(a)
    with torch.no_grad():
        for p, q, r in zip(middle.state_dict().values(), a.state_dict().values(), b.state_dict().values(), strict=True):
            p.copy_((q + r) / 2)
    truth = [loss_of(model) for model in (a, middle, b)]
    np.testing.assert_allclose(surface["loss"].values, truth, rtol=1e-6)


def test_data_has_the_dtype_of_the_first_parameter_and_not_of_the_first_that_moves():
    inner = network().double()
    inner[4].float()

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner[4](self.inner[:4](x).float())

    inner[2].requires_grad_(False)
    objective = ln.Objective(Mixed(), "cross_entropy", (X.double().numpy(), Y.numpy()))
    assert {tensor.dtype for tensor in objective.params.values()} == {torch.float32}


def test_a_point_may_hold_what_the_objective_holds():
    model, other = network(), network(1)
    objective = objective_of(model)
    everything = dict(other.named_parameters())
    assert objective.evaluate(everything)["loss"] == pytest.approx(loss_of(other), rel=1e-6)
    with pytest.raises(errors.StructureMismatchError, match="nobody"):
        objective.evaluate(everything | {"nobody": torch.ones(1)})


# ---------------------------------------------------------------------- everything follows


def test_directions_and_curvature_follow():
    model = network()
    objective = objective_of(model)
    for direction in (*ln.directions.random(objective, 2), ln.directions.gradient(objective)):
        assert list(direction) == names_of(model)
    everything = ln.directions.random(objective.moving("all"))[0]
    ours = ln.directions.random(objective)[0]
    for name in ours:  # what is drawn for one does not depend on the others
        assert torch.equal(ours[name], everything[name])

    double = copy.deepcopy(model).double()
    free = [p for p in double.parameters() if p.requires_grad]
    loss = F.cross_entropy(double(X.double()), Y)
    grads = torch.autograd.grad(loss, free, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [torch.cat([r.reshape(-1) for r in torch.autograd.grad(g, free, retain_graph=True)]) for g in flat]
    dense = torch.stack(rows)
    assert ln.curvature.Hessian(objective).size == len(dense) == 48
    found = ln.curvature.trace(ln.curvature.Hessian(objective, precision="float64"), products=400)
    assert found.value == pytest.approx(float(torch.trace(dense)), abs=6 * found.error)
    top = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective, precision="float64"), k=1)
    assert float(top.values[0]) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)
    gradient = ln.curvature.gradient(objective, precision="float64")
    for name, grad in zip(names_of(model), grads, strict=True):
        torch.testing.assert_close(gradient[name].double(), grad.detach(), rtol=1e-5, atol=1e-7)
    value = ln.sharpness(objective, "lambda_max", normalize=None, exclude=(), progress=False)
    assert value.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-2)


def test_a_part_is_named_among_what_moves():
    objective = objective_of(network())
    assert ln.curvature.Hessian(objective, params="*").size == 48
    assert ln.curvature.Hessian(objective, params="trainable").size == 48
    assert ln.curvature.Hessian(objective, params="*.bias").names == ("2.bias", "4.bias")
    for asked in ("0.weight", "all"):
        with pytest.raises(errors.OptionError, match=r'"0.weight", which the objective holds fixed.*moving\('):
            ln.curvature.Hessian(objective, params=asked)
    assert ln.curvature.Hessian(objective.moving("all"), params="all").size == 73


def test_moments_follow():
    model = network()
    free = [p for p in model.parameters() if p.requires_grad]
    for optimizer in (torch.optim.Adam(free), torch.optim.Adam(model.parameters())):
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        for given in (optimizer, optimizer.state_dict()):
            first, _ = ln.directions.moments(given, model)
            assert list(first) == names_of(model)
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    assert torch.equal(first[name], optimizer.state[parameter]["exp_avg"])
    objective = objective_of(model)
    ln.Plane(objective.params, *ln.directions.random(objective), ln.directions.moments(optimizer, model)[0])


# ---------------------------------------------------------------------- between checkpoints


def ends(kind, model, tmp_path, name):
    if kind == "objective":
        return objective_of(model)
    if kind == "file":
        return ln.checkpoints.save(model, tmp_path / f"{name}.safetensors")
    return model if kind == "module" else model.state_dict()


@pytest.mark.parametrize("kind", ["objective", "module", "file", "state dict"])
@pytest.mark.parametrize("frozen", [("0.",), ("0.", "4.bias"), ("nothing",)])
def test_a_line_between_two_frozen_networks_ends_at_the_second(kind, frozen, tmp_path):
    a, b = network(0, frozen), network(1, frozen)
    objective = objective_of(a)
    first, second = ends(kind, a, tmp_path, "a"), ends(kind, b, tmp_path, "b")
    for center in (objective, objective.params) if kind == "file" else (objective, first, objective.params):
        line = ln.Line(center, between(objective if kind == "file" else first, second))
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 2)), progress=False)
        np.testing.assert_allclose(surface["loss"].values, [loss_of(a), loss_of(b)], rtol=1e-6)
        moves = surface.attrs["objective"]["moves"]
        assert moves["params"] == "trainable"
        assert moves.get("also", []) == [n for n, p in a.named_parameters() if not p.requires_grad]
    assert list(objective.params) == names_of(a)


def test_what_is_frozen_and_the_same_stays():
    a = network(0)
    b = copy.deepcopy(a)
    with torch.no_grad():
        b[4].weight.add_(0.3)
    line = ln.Line(a, between(a, b))
    assert list(line.center) == names_of(a)
    objective = objective_of(a)
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 2)), progress=False)
    np.testing.assert_allclose(surface["loss"].values, [loss_of(a), loss_of(b)], rtol=1e-6)
    assert "also" not in surface.attrs["objective"]["moves"]
    b.requires_grad_(True)  # whose user trains all of it, to the same weights
    surface = ln.evaluate(objective, ln.Line(a, between(a, b)), ln.Grid(alpha=(0, 1, 2)), progress=False)
    np.testing.assert_allclose(surface["loss"].values, [loss_of(a), loss_of(b)], rtol=1e-6)


def test_a_plane_through_frozen_networks_beside_a_random_direction():
    a, b, c = (network(seed) for seed in range(3))
    objective = objective_of(a)
    grid = ln.Grid(alpha=(0, 1, 2), beta=(0, 1, 2))
    plane = ln.Plane(a, *through(a, b, c, orthogonal=False))
    surface = ln.evaluate(objective, plane, grid, progress=False)
    truth = [loss_of(a), loss_of(c), loss_of(b)]
    np.testing.assert_allclose(surface["loss"].values.reshape(-1)[:3], truth, rtol=1e-6)
    for lazy in (False, True):
        drawn = ln.directions.random(objective, lazy=lazy)[0]
        plane = ln.Plane(objective.params, between(a, b), drawn)
        surface = ln.evaluate(objective, plane, grid, progress=False)
        moved = copy.deepcopy(b)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                if name in drawn:
                    parameter.add_(drawn[name])
        assert float(surface["loss"][1, 0]) == pytest.approx(loss_of(b), rel=1e-6)
        assert float(surface["loss"][1, 1]) == pytest.approx(loss_of(moved), rel=1e-5)


def test_who_said_what_moves_is_taken_at_his_word():
    a, b = network(0), network(1)
    objective = objective_of(a, params=["2.*", "4.*"])
    for line in (
        ln.Line(objective.params, between(a.state_dict(), b.state_dict())),
        ln.Line(a.state_dict(), between(a.state_dict(), b.state_dict())),
    ):
        with pytest.raises(errors.StructureMismatchError, match="0.weight"):
            ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 2)), progress=False)
    with pytest.raises(errors.StructureMismatchError, match="0.weight"):
        ln.evaluate(objective, ln.Line(a, between(a, b)), ln.Grid(alpha=(0, 1, 2)), progress=False)
    with pytest.raises(errors.StructureMismatchError, match=r'another "0.weight".*params=\'all\''):
        ln.evaluate(objective, ln.Line(objective, between(objective, b)), ln.Grid(alpha=(0, 1, 2)), progress=False)


# ---------------------------------------------------------------------- recorded


def train(model, trajectory, steps):
    """Steps of SGD on what requires a gradient; all states by the way."""
    states = []
    for _ in range(steps):
        loss = F.cross_entropy(model(X), Y)
        grads = torch.autograd.grad(loss, free := [p for p in model.parameters() if p.requires_grad])
        with torch.no_grad():
            for parameter, grad in zip(free, grads, strict=True):
                parameter.sub_(0.5 * grad)
        trajectory.step()
        states.append(copy.deepcopy(model.state_dict()))
    return states


def same(state, truth):
    return state.keys() == truth.keys() and all(torch.equal(state[name], truth[name]) for name in truth)


def test_a_trajectory_records_what_is_trained_and_what_is_frozen_once(tmp_path):
    model = network()
    states = [copy.deepcopy(model.state_dict())]
    with ln.Trajectory(model, store=tmp_path / "run") as trajectory:
        states += train(model, trajectory, 4)
    sizes = [len(ln.checkpoints.load(file)) for file in sorted((tmp_path / "run").glob("*.safetensors"))]
    assert sizes == [6, 4, 4, 4, 4]
    run = ln.Trajectory.open(tmp_path / "run")
    assert list(run[2]) == list(run.structure) == names_of(model)
    assert list(run.held) == ["0.weight", "0.bias"]
    for part in (run, run[1:]):  # of which none has what is frozen
        for i, truth in enumerate(states[len(states) - len(part) :]):
            assert same(part.state(i), truth)
    objective = objective_of(model)
    found = ln.directions.pca(run, 2)
    plane = ln.Plane(found.center, *found)
    for moving in (objective, objective.moving("all")):
        path = ln.evaluate_trajectory(
            moving, ln.Line(moving.params, *ln.directions.random(moving)), run, progress=False
        )
        truth = [float(F.cross_entropy(torch.func.functional_call(model, state, X), Y)) for state in states]
        np.testing.assert_allclose(path["loss"].values, truth, rtol=1e-6)
    for moving in (objective, objective_of(model.requires_grad_(True))):  # of a model that was built anew, say
        path = ln.evaluate_trajectory(moving, plane, run, progress=False)
        assert float(path["residual"][-1]) < 1e-6
        np.testing.assert_allclose(path["loss"].values, truth, rtol=1e-6)
        surface = ln.evaluate(moving, plane, ln.Grid(alpha=(0, 1, 2), beta=(0, 1, 2)), progress=False)
        assert surface.attrs["objective"]["parameters_held"] == 25
    plane = ln.Plane(
        {name: tensor + 1 for name, tensor in plane.center.items()}, *found
    )  # of whom nobody knows the rest
    with pytest.raises(errors.StructureMismatchError, match="0.weight"):
        ln.evaluate(moving, plane, ln.Grid(alpha=(0, 1, 2), beta=(0, 1, 2)), progress=False)


def test_what_is_thawed_on_the_way_is_recorded_from_there(tmp_path):
    model = network(frozen=("0.", "2."))
    states = [copy.deepcopy(model.state_dict())]
    with ln.Trajectory(model, store=tmp_path / "run") as trajectory:
        states += train(model, trajectory, 2)
        model[2].requires_grad_(True)
        states += train(model, trajectory, 2)
        with torch.no_grad():
            model[0].weight.mul_(2)  # frozen, and written to all the same
        states += train(model, trajectory, 2)
    run = ln.Trajectory.open(tmp_path / "run")
    assert sorted(run.structure) == sorted(names_of(model))
    for i, truth in enumerate(states):
        assert same(run.state(i), truth)
        assert same(run[i], {name: truth[name] for name in run.structure})
    seen = {name: np.full((len(run), *tensor.shape), np.nan) for name, tensor in run.structure.items()}
    for parts, block in run.columns():
        for name, rows, columns in parts:
            seen[name][:, rows] = block[:, columns].reshape(seen[name][:, rows].shape)
    for name, values in seen.items():
        np.testing.assert_array_equal(values, np.stack([state[name].numpy() for state in states]))

    model.load_state_dict(states[1])  # and again from before the thaw, all of it trained now
    model.requires_grad_(True)
    again = ln.Trajectory(model, store=tmp_path / "run", resume=1)
    fresh = states[:2] + train(model, again, 3)
    again.close()
    for i, truth in enumerate(fresh):
        assert same(ln.Trajectory.open(tmp_path / "run").state(i), truth)


@pytest.mark.parametrize("changed", [False, True])
def test_going_on_with_another_frozen_part_keeps_it(tmp_path, changed):
    model = network()
    with ln.Trajectory(model, store=tmp_path / "run") as trajectory:
        train(model, trajectory, 2)
    again = copy.deepcopy(model)
    if changed:
        with torch.no_grad():
            again[0].bias.add_(1.0)
    with ln.Trajectory(again, store=tmp_path / "run", resume=True) as trajectory:
        train(again, trajectory, 1)
    run = ln.Trajectory.open(tmp_path / "run")
    assert same(run.state(-1), again.state_dict())
    assert torch.equal(run.state(1)["0.bias"], model[0].bias)
    last = ln.checkpoints.load(sorted((tmp_path / "run").glob("*.safetensors"))[-1])
    assert ("0.bias" in last) == changed


def test_a_store_from_before_goes_on_with_what_it_records(tmp_path):
    """It has every parameter in every snapshot, and its header says nothing of what is held."""
    model = network()
    with ln.Trajectory(model, store=tmp_path / "run", params="all") as trajectory:
        train(model, trajectory, 2)
    header = tmp_path / "run" / "trajectory.json"
    said = json.loads(header.read_text())
    header.write_text(json.dumps({key: value for key, value in said.items() if key not in ("held", "kept")}))
    with ln.Trajectory(model, store=tmp_path / "run", resume=True) as trajectory:
        train(model, trajectory, 2)
    run = ln.Trajectory.open(tmp_path / "run")
    assert list(run[-1]) == names_of(model, trained=False)
    assert len(ln.checkpoints.load(sorted((tmp_path / "run").glob("*.safetensors"))[-1])) == 6
    found = ln.directions.pca(run, 2)
    objective = objective_of(model)
    path = ln.evaluate_trajectory(objective, ln.Plane(found.center, *found), run, progress=False)
    assert float(path["loss"][-1]) == pytest.approx(loss_of(model), rel=1e-6)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    assert float(ln.evaluate_trajectory(objective, line, run, buffers="objective")["loss"][-1]) == pytest.approx(
        loss_of(model), rel=1e-6
    )


def test_a_part_that_was_asked_for_is_all_that_is_recorded(tmp_path):
    model = network()
    with ln.Trajectory(model, store=tmp_path / "run", params="4.*") as trajectory:
        train(model, trajectory, 1)
    assert list(ln.Trajectory.open(tmp_path / "run")[-1]) == ["4.weight", "4.bias"]
    assert len(ln.Trajectory.open(tmp_path / "run").state(-1)) == 2


# ---------------------------------------------------------------------- stores, and the command line


def stopping():
    """An engine that is stopped before the first point."""

    def stop(*_):
        raise KeyboardInterrupt

    engine = ln.Local(plan="plain")
    engine.run = stop
    return engine


SPEC = """
import torch
import lossnav as ln
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
model[0].requires_grad_(False)
x = torch.randn(10, 3)
objective = ln.Objective(model, "cross_entropy", (x, torch.arange(10) % 2))
"""


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(SPEC)

    def command(*arguments):
        done = CliRunner().invoke(app, [*arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    common = ["--chart", "line", "--grid", "3", "--exclude", ""]
    for params, held in (([], 16), (["--params", "all"], 0), (["--params", "0.*"], 10)):
        command("evaluate", "job.py:objective", "-o", f"run{held}.zarr", *common, *params)
        surface = ln.open(f"run{held}.zarr")
        assert surface.attrs["objective"]["parameters_held"] == held
        assert ln.resume(f"run{held}.zarr", spec="job.py:objective").attrs["objective"] == surface.attrs["objective"]
        norms = surface.attrs["chart"]["directions"][0]["norms"]
        assert set(norms) == {16: {"2.weight", "2.bias"}, 10: {"0.weight", "0.bias"}}.get(held, {*norms} | {"0.bias"})
    flatness = [command("sharpness", "job.py:objective", "--kind", "lambda_max", *p) for p in ([], ["--params", "all"])]
    assert flatness[0] != flatness[1]
    command("curvature", "job.py:objective", "--top", "1", "--params", "all", "-o", "s.zarr")
    assert ln.open_spectrum("s.zarr").attrs["objective"]["parameters_held"] == 0


def test_a_store_in_which_everything_moved_goes_on_so(tmp_path):
    """Stores from before what is frozen was held say nothing of it, and nothing is held in them."""
    (tmp_path / "job.py").write_text(SPEC)
    objective = load_objective(f"{tmp_path}/job.py:objective").moving_as({"parameters_held": 0})
    assert objective.describe()["parameters_held"] == 0
    line = ln.Line(objective.params, *ln.directions.random(objective))
    with pytest.raises(KeyboardInterrupt):
        ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 5)), store=tmp_path / "run", engine=stopping())
    group = zarr.open_group(tmp_path / "run")
    said = dict(group.attrs["objective"])
    assert said["parameters_held"] == 0 and objective.origin is not None
    del said["moves"]
    group.attrs["objective"] = said
    del group.attrs["digest"], group.attrs["written"]
    done = ln.resume(tmp_path / "run", spec=f"{tmp_path}/job.py:objective", progress=False)
    assert (done["status"] == 1).all()
    truth = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 5)), progress=False)
    np.testing.assert_array_equal(done["loss"], truth["loss"])


def test_a_line_between_frozen_networks_is_gone_on_with(tmp_path):
    a, b = network(0), network(1)
    objective, line = objective_of(a), ln.Line(a, between(a, b))
    grid = ln.Grid(alpha=(0, 1, 5))
    with pytest.raises(KeyboardInterrupt):
        ln.evaluate(objective, line, grid, store=tmp_path / "run", save_directions=True, engine=stopping())
    for done in (
        ln.resume(tmp_path / "run", objective),
        ln.evaluate(objective, line, grid, store=tmp_path / "run", overwrite=False),
    ):
        assert (done["status"] == 1).all()
        np.testing.assert_allclose(done["loss"].values[[0, -1]], [loss_of(a), loss_of(b)], rtol=1e-6)
    assert "mean_eigenvalue" in ln.report(done, objective=objective, chart=line).to_json()


def test_the_report_says_what_moves():
    a, b = network(0), network(1)
    objective, grid = objective_of(a), ln.Grid(alpha=(0, 1, 3))
    drawn = ln.evaluate(objective, ln.Line(a, *ln.directions.random(objective)), grid, progress=False)
    held = ln.report(drawn)["held still"]
    assert "25 parameters of the model (0.weight, 0.bias)" in held.said
    assert "not trained" in held.said and "48 may move" in held.said
    assert 'params="all"' in held.do
    between_them = ln.report(ln.evaluate(objective, ln.Line(a, between(a, b)), grid, progress=False))["held still"]
    assert "25 parameters that are not trained" in between_them.said
    assert "checkpoints on the chart differ" in between_them.said
    whole = objective.moving("all")
    everything = ln.evaluate(
        whole, ln.Line(whole.params, *ln.directions.random(whole, exclude=())), grid, progress=False
    )
    assert "(params='all')" in ln.report(everything)["held still"].said


# ---------------------------------------------------------------------- of PEFT


def test_lora_moves_its_adapters():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
    model.eval()
    objective = objective_of(model)
    assert len(objective.params) == 4
    assert all("lora_" in name for name in objective.params)
    there = {name: tensor + 0.1 for name, tensor in objective.params.items()}
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    assert objective.evaluate(there)["loss"] == pytest.approx(loss_of(moved), rel=1e-6)
    other = copy.deepcopy(moved)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "base_layer.bias" in name:
                parameter.add_(0.2)  # another base, frozen too
    for end in (moved, other):
        line = ln.Line(objective, between(objective, end))
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 2)), progress=False)
        np.testing.assert_allclose(surface["loss"].values, [loss_of(model), loss_of(end)], rtol=1e-6)
    assert ln.curvature.Hessian(objective).size == sum(tensor.numel() for tensor in objective.params.values())
