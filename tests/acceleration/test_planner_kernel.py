"""The default plan takes a kernel where it is right, and the rest is done where it is not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from fusible import CASES, HALF, fuse, images, ready, vectors
from lossnav import errors
from lossnav.acceleration import ChartFunction, Plan, compiler, kernel, rules
from lossnav.acceleration import planner as planning
from lossnav.acceleration.kernel import Kernel
from lossnav.evaluation.center import probe_points

GRID = ln.Grid(alpha=(-1, 1, 5), beta=(-0.5, 1, 4))


def test_a_hook_before_the_model_is_applied_once(eager):
    model = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 5))
    model.register_forward_pre_hook(lambda _, args: (args[0] + args[0],))
    fast, plain = surfaces(*problem(model, vectors(13)))
    assert fast.attrs["engine"]["plan_fields"].get("fused"), fast.attrs["engine"]
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


def test_nothing_is_proved_where_nothing_is_finite(eager):
    model = nn.Sequential(nn.Linear(13, 5))
    objective, plane = problem(model, vectors(13).fill_(torch.nan))
    surface = ln.evaluate(objective, plane, GRID, check=False)
    assert surface.attrs["engine"]["plan_fields"] == {}
    assert "no probe" in surface.attrs["engine"]["plan_events"][-1]


def test_memory_running_out_ends_in_batches_too_small_to_fuse(eager, monkeypatch):
    objective, plane = problem(*ready("linear"))
    plain = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan="plain"))
    calls = []

    def out_of_memory(self, data, factors=(1.0,)):
        calls.append(len(data[0]))
        if len(calls) > 15:
            raise torch.OutOfMemoryError("out of memory")
        return real(self, data, factors)

    real = Kernel.__call__
    monkeypatch.setattr(Kernel, "__call__", out_of_memory)
    surface = ln.evaluate(objective, plane, GRID)
    assert "fused" not in surface.attrs["engine"]["plan_fields"], surface.attrs["engine"]
    assert surface.attrs["engine"]["plan_fields"]["batch_size"] < 3
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)


def test_threads_may_share_one_function(eager):
    from concurrent.futures import ThreadPoolExecutor

    objective, plane = problem(*ready("notebook"))
    function = ln.Local().prepare(ChartFunction(objective, plane), probe_points(GRID), 10_000)
    assert function.fast.plan.fused
    points = GRID.points()
    alone = [function(point)["loss"] for point in points]
    with ThreadPoolExecutor(4) as pool:
        assert [values["loss"] for values in pool.map(function, points)] == alone


@pytest.fixture
def eager(monkeypatch):
    for name in ("_WORTH_RULES", "_FEWEST_POINTS"):
        monkeypatch.setattr(planning, name, 0)
    monkeypatch.setattr(rules, "_LEAST_INPUTS", 0)


def problem(model, x, **options):
    targets = torch.randint(0, 5, (len(x),), generator=torch.Generator().manual_seed(1))
    objective = ln.Objective(model, "cross_entropy", (x, targets), metrics=["accuracy"], batch_size=8, **options)
    return objective, ln.Plane(objective.params, *ln.directions.random(objective, n=2, exclude=(), seed=1))


def surfaces(objective, plane, **options):
    return (ln.evaluate(objective, plane, GRID, engine=ln.Local(**o)) for o in (options, {"plan": "plain"}))


@pytest.mark.parametrize("case", CASES)
def test_the_default_plan_fuses_and_is_right(eager, case):
    fast, plain = surfaces(*problem(*ready(case)))
    assert fast.attrs["engine"]["plan_fields"]["fused"]
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)
    np.testing.assert_allclose(fast["loss_se"], plain["loss_se"], rtol=1e-4)
    np.testing.assert_allclose(fast["accuracy"], plain["accuracy"], atol=1.01 / 30)


def test_the_first_layer_is_amortised_too(eager):
    fast, plain = surfaces(*problem(*ready("mlp")))
    assert fast.attrs["engine"]["plan_fields"] == {"batch_size": 30, "amortize_first_layer": True, "fused": True}
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


@HALF
def test_half_precision_fuses(eager):
    fast, plain = surfaces(*problem(*ready("notebook")), precision="bfloat16")
    assert fast.attrs["engine"]["plan_fields"]["fused"]
    assert 1e-6 < fast.attrs["engine"]["plan_error"] < planning.TOLERANCES["bfloat16"]
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=0.1)


class BySize(nn.Module):
    """Does something else with three samples than with more."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x):
        return self.layer(x) if len(x) < 4 else self.layer(F.relu(x))


class ByTheWeights(nn.Module):
    """Takes another branch where a weight says so."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x):
        return self.layer(x if self.layer.bias.detach().numpy()[0] > 0 else F.relu(x))


class Alternating(nn.Module):
    """A hook changes the input, on and off."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 5), 0
        self.layer.register_forward_pre_hook(lambda module, given: (F.relu(given[0]),))

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("kind", [BySize, ByTheWeights, Alternating], ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore::lossnav.errors.PlanFellBackWarning")
def test_a_model_that_is_misread_is_caught(eager, kind):
    torch.manual_seed(0)
    fast, plain = surfaces(*problem(kind().eval(), vectors(4)))
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


def test_two_tensors_are_not_fused_and_nobody_is_warned(eager):
    model = nn.Bilinear(4, 3, 5)
    targets = torch.randint(0, 5, (30,))
    objective = ln.Objective(model.eval(), "cross_entropy", (vectors(4), vectors(3), targets), batch_size=8)
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, exclude=(), seed=1))
    fast, plain = surfaces(objective, plane)
    assert any("not fused: its input is not one tensor" in e for e in fast.attrs["engine"]["plan_events"])
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


def test_large_weights_on_small_images_are_left_to_others(eager):
    model = nn.Sequential(nn.Conv2d(3, 256, 3), nn.ReLU(), nn.Conv2d(256, 256, 3), nn.Flatten(), nn.Linear(256, 5))
    fast, plain = surfaces(*problem(model.eval(), images(3, 5)))
    assert any("does not fit into the cache" in event for event in fast.attrs["engine"]["plan_events"])
    assert "fused" not in fast.attrs["engine"]["plan_fields"]
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


@pytest.mark.parametrize("why", ["no compiler", "it fails"])
def test_without_a_compiler_the_rest_is_done(eager, monkeypatch, tmp_path, why):
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(compiler, "compiler_path", lambda: None if why == "no compiler" else str(broken))
    monkeypatch.setattr(kernel.platformdirs, "user_cache_path", lambda name: tmp_path)
    fast, plain = surfaces(*problem(*ready("notebook")))
    engine = fast.attrs["engine"]
    assert engine["plan_fields"]["channels_last"]
    assert "fused" not in engine["plan_fields"]
    assert any("no such luck" in event for event in engine["plan_events"]) == (why == "it fails")
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


def test_a_fused_plan_that_is_asked_for_and_impossible_warns():
    objective, plane = problem(nn.Sequential(nn.Linear(4, 5), nn.Tanh()).eval(), vectors(4))
    with pytest.warns(errors.PlanFellBackWarning, match="aten.tanh"):
        surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=Plan(fused=True)))
    assert surface.attrs["engine"]["plan"] == "plain"


def test_a_kernel_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel.platformdirs, "user_cache_path", lambda name: tmp_path)
    model, x = ready("linear")
    fuse(model, x)(x)
    files = list((tmp_path / "kernels").iterdir())
    assert [file.suffix for file in files] == [".so"]
    monkeypatch.setattr(kernel, "compile_source", lambda *_: pytest.fail("compiled again"))
    torch.testing.assert_close(fuse(model, x)(x), model(x).detach())


def test_data_in_another_layout_is_read_right(eager):
    model, x = ready("notebook")
    fast, plain = surfaces(*problem(model, x.contiguous(memory_format=torch.channels_last).transpose(2, 3)))
    assert fast.attrs["engine"]["plan_fields"]["fused"]
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


def test_numbers_that_belong_to_a_batch_keep_it(eager):
    """A batch of tensors and a number is not cut anew: the number would go to the wrong samples."""
    batches = [(vectors(4), torch.zeros(30, dtype=torch.long), float(i)) for i in range(3)]
    objective = ln.Objective(
        nn.Linear(4, 5).eval(),
        lambda outputs, targets: F.cross_entropy(outputs, targets[0]),
        batches,
        forward=lambda model, batch: (model(batch[0]), batch[1:]),
        metrics={"number": lambda outputs, targets: torch.full((30,), targets[1])},
    )
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, exclude=(), seed=1))
    fast, plain = surfaces(objective, plane)
    np.testing.assert_array_equal(fast["number"], plain["number"])
    assert float(fast["number"][0, 0]) == 1.0


def test_a_chart_around_another_centre_is_amortised_there(eager):
    objective, plane = problem(*ready("mlp"))
    center = {name: tensor + 0.1 for name, tensor in objective.params.items()}
    fast, plain = surfaces(objective, ln.Plane(center, *plane.basis))
    assert fast.attrs["engine"]["plan_fields"]["amortize_first_layer"]
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)
