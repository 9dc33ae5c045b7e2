"""A network is weights and buffers: whatever is asked of it at a point is asked with the buffers that belong there."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

import lossnav as ln
from lossnav import checkpoints
from lossnav.cli import app
from lossnav.curvature import Hessian
from lossnav.errors import CheckpointMismatchError, LossnavWarning, OptionError, StructureMismatchError
from lossnav.params import Checkpoint
from lossnav.specs.objective_of import load_objective
from networks_with_buffers import KINDS, data, objective_of, plain_loss, trained


def checkpoint_of(model):
    return Checkpoint(dict(model.named_parameters()), dict(model.named_buffers()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_evaluated_with_the_buffers_it_is_given(kind):
    a, b = trained(kind, 0), trained(kind, 1)
    objective, there = objective_of(a), checkpoint_of(b)
    own = objective.evaluate(objective.params)["loss"]
    assert own == pytest.approx(plain_loss(a), rel=1e-6)
    assert objective.evaluate(dict(there), there.buffers)["loss"] == pytest.approx(plain_loss(b), rel=1e-6)
    assert objective.evaluate(there)["loss"] == pytest.approx(plain_loss(b), rel=1e-6)
    assert objective.around(there).evaluate(objective.around(there).params)["loss"] == pytest.approx(
        plain_loss(b), rel=1e-6
    )
    assert objective.evaluate(objective.params)["loss"] == own  # nothing of it stays


def test_second_derivatives_are_those_of_the_network_at_the_point():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    direction = {name: torch.ones_like(tensor) for name, tensor in b.named_parameters()}
    here, there = Hessian(objective_of(a), checkpoint_of(b)) @ direction, Hessian(objective_of(b)) @ direction
    for name, product in there.items():
        torch.testing.assert_close(here[name], product)


def test_buffers_of_another_network_are_refused():
    objective = objective_of(trained("BatchNorm1d", 0))
    with pytest.raises(StructureMismatchError, match="nothing"):
        objective.evaluate(objective.params, {"nothing": torch.zeros(2)})
    with pytest.raises(StructureMismatchError, match="running_mean"):
        objective.evaluate(objective.params, {"1.running_mean": torch.zeros(2)})


def test_a_checkpoint_travels_whole():
    there = checkpoint_of(trained("shared", 1))
    again = pickle.loads(pickle.dumps(there))
    assert list(again) == list(there) and list(again.buffers) == list(there.buffers)


def test_a_state_dict_without_buffers_is_refused_or_completed_by_name(tmp_path):
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    objective, state = objective_of(a), b.state_dict()
    there = objective.at(state)
    assert there.evaluate(there.params)["loss"] == pytest.approx(plain_loss(b), rel=1e-6)
    without = {name: tensor for name, tensor in state.items() if not name.startswith("1.running")}
    with pytest.raises(CheckpointMismatchError, match=r'"1\.running_mean", "1\.running_var".*missing="keep"'):
        objective.at(without)
    with pytest.warns(LossnavWarning, match=r'"1\.running_mean", "1\.running_var"'):
        kept = objective.at(without, missing="keep")
    copied = copy.deepcopy(b)
    copied[1].running_mean.copy_(a[1].running_mean)
    copied[1].running_var.copy_(a[1].running_var)
    assert kept.evaluate(kept.params)["loss"] == pytest.approx(plain_loss(copied), rel=1e-6)
    with pytest.raises(OptionError, match="missing must be 'refuse' or 'keep', got 'perhaps'"):
        objective.at(state, missing="perhaps")
    path = checkpoints.save(without, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"b\.safetensors lacks"):
        objective.at(path)
    with pytest.raises(CheckpointMismatchError, match=r"b\.safetensors lacks"):
        checkpoints.load_into(copy.deepcopy(a), path)


def test_what_no_result_hangs_on_may_be_missing():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    state = {name: tensor for name, tensor in b.state_dict().items() if "num_batches" not in name}
    there = objective_of(a).at(state)
    assert there.evaluate(there.params)["loss"] == pytest.approx(plain_loss(b), rel=1e-6)
    bare = dict(b.named_parameters())
    recomputed = objective_of(a, bn="recompute").at(bare)
    assert recomputed.evaluate(bare) == objective_of(b, bn="recompute").evaluate(bare)
    c, d = trained("not persistent", 0), trained("not persistent", 1)
    mixed = copy.deepcopy(c)
    mixed.load_state_dict(d.state_dict())  # as torch itself would load such a file
    there = objective_of(c).at(d.state_dict())
    assert there.evaluate(there.params)["loss"] == pytest.approx(plain_loss(mixed), rel=1e-6)


def test_a_file_that_has_a_shared_buffer_by_its_second_name_is_read():
    a, b = trained("shared", 0), trained("shared", 1)
    state = {name: tensor for name, tensor in b.state_dict().items() if not name.startswith("first.")}
    there = objective_of(a).at(state)
    assert there.evaluate(there.params)["loss"] == pytest.approx(plain_loss(b), rel=1e-6)


def test_the_command_line_refuses_or_keeps(tmp_path):
    (tmp_path / "normed.py").write_text(
        "import torch, lossnav as ln\n"
        "from torch import nn\n"
        "torch.manual_seed(0)\n"
        "model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()\n"
        "objective = ln.Objective(model, 'cross_entropy', (torch.randn(20, 3), torch.randint(0, 2, (20,))))\n"
    )
    spec = f"{tmp_path / 'normed.py'}:objective"
    whole = load_objective(spec)
    path = checkpoints.save(dict(whole.params), tmp_path / "w.safetensors")
    arguments = ["evaluate", spec, "--checkpoint", str(path), "--grid", "3", "-o", str(tmp_path / "run.zarr")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "1.running_mean" in refused.output and "--missing-buffers keep" in refused.output
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # the command prints them
        kept = CliRunner().invoke(app, [*arguments, "--missing-buffers", "keep"])
    assert kept.exit_code == 0 and "1.running_var" in kept.output, kept.output
    surface = ln.open(tmp_path / "run.zarr")
    assert surface.attrs["objective"]["origin"]["missing_buffers"] == "keep"
    assert float(surface["loss"].sel(alpha=0, beta=0)) == pytest.approx(whole.evaluate(whole.params)["loss"], rel=1e-6)


def test_a_snapshot_is_evaluated_with_its_own_buffers(tmp_path):
    model, (x, y) = trained("mean and std", 0).train(), data()
    truths, optimizer = [], torch.optim.SGD(model.parameters(), lr=0.05)
    with ln.Trajectory(model, store=tmp_path / "run") as trajectory:
        truths.append(plain_loss(model))
        for i in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x + i), y).backward()
            optimizer.step()
            trajectory.step()
            truths.append(plain_loss(model))
    objective = objective_of(model.eval())
    line = ln.Line(objective, ln.directions.between(objective, objective.at(trajectory.state(0))))
    path = ln.evaluate_trajectory(objective, line, trajectory, progress=False)
    assert path["loss"].values == pytest.approx(truths, rel=1e-6)
    assert float(path["loss_projected"][0]) == pytest.approx(truths[0], rel=1e-5)  # it lies on the line, with its own
    alone = ln.evaluate_trajectory(objective, line, trajectory, buffers="objective", progress=False)
    assert float(alone["loss"][0]) == pytest.approx(objective.evaluate(trajectory[0])["loss"], rel=1e-6)


def test_the_report_says_whose_buffers_a_center_takes():
    torch.manual_seed(0)
    data = torch.randn(40, 6), torch.randint(0, 3, (40,))
    models = []
    for shift in (0.0, 2.0):
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
        model(data[0] + shift)
        models.append(model.eval())
    a, b = (ln.Objective(model, "cross_entropy", data) for model in models)
    grid = ln.Grid(alpha=(-1, 1, 3))
    (random,) = ln.directions.random(a)

    def found(objective, center):
        lines = ln.report(ln.evaluate(objective, ln.Line(center, random), grid)).lines
        return next((line for line in lines if line.check == "buffers"), None)

    warned = found(a, b.params)
    assert warned.level == "warning" and "1.running_mean" in warned.said
    assert found(a, a.params).level == "ok"
    assert found(a, dict(a.params)).level == "ok"
    assert found(a, b).level == "ok"
    assert found(b, b.params).level == "ok"
    same = a.around({name: 1.1 * tensor for name, tensor in a.params.items()})  # the same buffers, known to be
    assert found(a, same).level == "ok"
