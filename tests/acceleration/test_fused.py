"""A whole model as one kernel gives what torch gives, or says what it cannot do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import lossnav as ln
from lossnav import errors
from lossnav.acceleration import ChartFunction, Plan, compiler, kernel
from lossnav.acceleration import planner as planning
from lossnav.acceleration.kernel import Kernel
from lossnav.acceleration.trace_graph import NotReadableError, read
from lossnav.evaluation.center import probe_points

pytestmark = pytest.mark.skipif(not compiler.can_compile(), reason="no C++ compiler")

HALF = pytest.mark.skipif("avx512_bf16" not in compiler._processor(), reason="no bfloat16 instructions")
GRID = ln.Grid(alpha=(-1, 1, 5), beta=(-0.5, 1, 4))


def images(channels, size, n=30):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def vectors(features, n=30):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """Both kinds of shortcut, additions in either order, a sum used twice, global pooling."""

    def __init__(self):
        super().__init__()
        self.start = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn_a, self.bn_b = nn.BatchNorm2d(8), nn.BatchNorm2d(16, affine=False)
        self.short, self.bn_short = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.start(x))
        x = F.relu(x + self.bn_a(self.a(x)))
        y = self.bn_b(self.b(x))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        z = x + x
        x = self.bn_short(self.short(z)) + z
        return self.head(x.mean((2, 3)))


class PreActivation(nn.Module):
    """BatchNorm before the convolution, and on vectors."""

    def __init__(self):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(5), nn.Conv2d(5, 7, 3, dilation=2)
        self.down, self.bn1 = nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.conv(F.relu_(self.bn(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        x = self.bn1(F.relu(self.down(x)))
        return F.log_softmax(self.head(x + x), dim=1)


CASES = {
    "notebook": lambda: (ln.zoo.NotebookCNN(), images(1, 28)),
    "linear": lambda: (nn.Linear(13, 5), vectors(13)),
    "mlp": lambda: (
        nn.Sequential(
            nn.Flatten(), nn.Linear(27, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 48, bias=False), nn.ReLU(True),
            nn.Linear(48, 5), nn.Softmax(1)
        ), images(3, 3),
    ),
    "strides": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 17, (3, 2), stride=(2, 1), padding=(0, 1)), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(17, 24, 3, padding="same"), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24 * 3, 5)
        ), images(3, 13),
    ),
    "wide": lambda: (
        nn.Sequential(nn.Conv2d(2, 64, 3), nn.ReLU(), nn.Conv2d(64, 96, 3), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
                      nn.Linear(384, 5)), images(2, 8),
    ),
    "residual": lambda: (Residual(), images(3, 9)),
    "pre-activation": lambda: (PreActivation(), images(5, 8)),
    "resnet": lambda: (ResNetLike(), images(3, 16)),
}  # fmt: skip


class ResNetLike(nn.Module):
    """A second convolution on an image that is also what is added later."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(c, 32, 3, padding=1) for c in (3, 32, 32, 32))
        self.head = nn.Linear(32 * 16, 5)

    def forward(self, x):
        x = F.relu(self.layers[0](x))
        y = self.layers[1](x)
        y += self.layers[2](x)
        x = F.max_pool2d(F.relu(self.layers[3](y) + x), 4)
        return self.head(x.reshape(len(x), -1))


def state_of(model):
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def ready(case):
    torch.manual_seed(0)
    model, x = CASES[case]()
    model.train()
    model(2 * x + 1)
    return model.eval(), x


def fuse(model, x, half=False):
    state = state_of(model)
    made = Kernel(read(lambda weights, x: functional_call(model, weights, (x,)), state, x[:3]), half=half)
    made.load(state)
    return lambda x: made([x]) if made.graph.tail is None else made.graph.tail(made([x]))


@pytest.mark.parametrize("case", CASES)
def test_a_fused_model_gives_what_torch_gives(case):
    model, x = ready(case)
    fused = fuse(model, x)
    for n in (30, 1, 13):
        torch.testing.assert_close(fused(x[:n]), model(x[:n]).detach(), rtol=2e-5, atol=2e-5)


@HALF
@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_half_precise(case):
    model, x = ready(case)
    truth, got = model(x).detach(), fuse(model, x, half=True)(x)
    error = float((got - truth).norm() / truth.norm())
    assert 1e-5 < error < 0.02


@pytest.mark.parametrize("case", CASES)
def test_what_overflows_overflows(case):
    model, x = ready(case)
    fused = fuse(model, x)
    x = x.clone()
    x[0].view(-1)[3] = torch.nan
    x[1].view(-1)[3] = torch.inf
    truth, got = model(x).detach(), fused(x)
    assert not torch.isfinite(truth[:2]).all()
    torch.testing.assert_close(got.isfinite(), truth.isfinite())
    torch.testing.assert_close(got[2:], truth[2:], rtol=2e-5, atol=2e-5)


def test_any_number_of_threads_will_do():
    model, x = ready("residual")
    fused, before = fuse(model, x), torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made.append(fused(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    torch.testing.assert_close(made[0], made[2])  # smaller parts of the data: rounded otherwise


@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(36, 5)), images(4, 5), "grouped"),
        (nn.Sequential(nn.Linear(4, 5), nn.Tanh()), vectors(4), "aten.tanh"),
        (nn.Conv2d(3, 4, 3), images(3, 5), "no vector"),
        (nn.Linear(4, 5).double(), vectors(4).double(), "float32"),
        (nn.Sequential(nn.Linear(4, 5), nn.Softmax(0)), vectors(4), "softmax over samples"),
        (
            nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 5, 1), nn.Flatten()),
            vectors(4),
            "view",
        ),
        (nn.Linear(4, 5), images(3, 4), "view|linear layer on images"),
    ],
    ids=["groups", "tanh", "image", "double", "softmax", "unflatten", "linear on images"],
)
def test_what_cannot_be_fused_says_why(model, x, words):
    with pytest.raises(NotReadableError, match=words):
        fuse(model.eval(), x)


class Spread(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(1))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight.t())


class TwoShapes(nn.Module):
    """The data as vectors and, by another name for it, as images."""

    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(27, 5), nn.Conv2d(3, 5, 3)

    def forward(self, x):
        again = x.detach()
        return self.linear(x.flatten(1)) + self.conv(again).flatten(1)


class Tupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x):
        return (self.layer(x),)


@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), images(3, 5), "flattened image"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(36, 5)), images(3, 5), "flattened image"),
        (nn.Sequential(nn.MaxPool2d(2, 3, ceil_mode=True), nn.Flatten(), nn.Linear(27, 5)), images(3, 7), "max-pool"),
        (Spread(), vectors(4), "spread over outputs"),
        (TwoShapes(), images(3, 3), "two shapes"),
        (Tupled(), vectors(4), "a tuple and not one tensor"),
    ],
    ids=["flat output", "relu on flat", "ceil", "scalar bias", "two shapes", "tuple"],
)
def test_what_would_be_misread_is_not_read(model, x, words):
    with pytest.raises(NotReadableError, match=words):
        fuse(model.eval(), x)


class AddsItsData(nn.Module):
    """Reads its data as a term of a sum: rows of 13 have no room for a whole vector after the last."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(13, 13)

    def forward(self, x):
        return self.layer(x) + x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_defaults_do_not_matter(dtype):
    torch.manual_seed(0)
    model, x = AddsItsData().eval(), vectors(13)
    expected = model(x)
    torch.set_default_dtype(dtype)
    try:
        made = fuse(model, x)(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)


def test_what_is_added_is_not_read_past_its_end():
    model = AddsItsData()
    made = Kernel(read(lambda w, x: functional_call(model, w, (x,)), state_of(model), vectors(13, 3)))
    assert "in[0] + start" not in made.source


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


@HALF
def test_a_diverged_point_leaves_nothing_behind():
    """Odd channels are read in pairs: what stands beside the last one must not matter, nor what stood there before."""
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)).eval()
    x, state = images(3, 6, 8), state_of(model)
    made = Kernel(read(lambda weights, x: functional_call(model, weights, (x,)), state, x[:3]), half=True)
    made.load(state)
    before = made([x])
    made.load({name: 1e38 * tensor for name, tensor in state.items()})
    assert not made([x]).isfinite().all()
    made.load(state)
    assert torch.equal(made([x]), before)
    x = x.clone()
    x[0] = torch.inf
    assert made([x]).isfinite()[1:].all()


# ---------------------------------------------------------------------- in a run


@pytest.fixture
def eager(monkeypatch):
    for name in ("_WORTH_RULES", "_FEWEST_POINTS", "_LEAST_INPUTS"):
        monkeypatch.setattr(planning, name, 0)


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
    assert any("not fused: it is given more than one tensor" in e for e in fast.attrs["engine"]["plan_events"])
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


def test_large_weights_on_small_images_are_left_to_others(eager):
    model = nn.Sequential(nn.Conv2d(3, 256, 3), nn.ReLU(), nn.Conv2d(256, 256, 3), nn.Flatten(), nn.Linear(256, 5))
    fast, plain = surfaces(*problem(model.eval(), images(3, 5)))
    assert any("do not stay in the cache" in event for event in fast.attrs["engine"]["plan_events"])
    assert "fused" not in fast.attrs["engine"]["plan_fields"]
    np.testing.assert_allclose(fast["loss"], plain["loss"], rtol=1e-5)


@pytest.mark.parametrize("why", ["no compiler", "it fails"])
def test_without_a_compiler_the_rest_is_done(eager, monkeypatch, tmp_path, why):
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(compiler, "_compiler", lambda: None if why == "no compiler" else str(broken))
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
    monkeypatch.setattr(compiler, "_compile", lambda *_: pytest.fail("compiled again"))
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
