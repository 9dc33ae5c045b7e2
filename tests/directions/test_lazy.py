"""Lazy directions are the stored ones, bit for bit, and a point is all that a chart of them holds."""

import itertools
import json
import math
import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from conftest import ROOT
from lossnav import errors
from lossnav import params as algebra
from lossnav.directions import counter_based, draw_parts
from lossnav.directions import lazy as lazily

CHARTS = {1: ln.Line, 2: ln.Plane, 3: ln.Volume}
POINTS = ([0.3, -0.2, 0.7], [1.0, 0.0, 0.0], [0.0, -1.5, 0.0])
NORMALIZATIONS = ["filter", "layer", "weight", None]
SHAPES = {  # beside what `Everything` has, where a slice has 2^12 entries and a piece 2^8
    "tall": (110, 100),  # more than one slice
    "long": (3, 2**12 + 5),  # rows that no slice holds
    "vector": (2**13 + 2**8 + 3,),
    "conv": (40, 30, 6, 6),
    "empty": (0, 3),
    "tiny": (700, 2),
}


def of_tensors(shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return ln.Objective.from_function(lambda p: sum(t.sum() for t in p.values()), params)


@pytest.fixture(params=[torch.bfloat16, torch.float32, torch.float64])
def large(request, monkeypatch):
    """Many slices, without the time that large ones take."""
    monkeypatch.setattr(draw_parts, "_SLICE", 2**12)
    monkeypatch.setattr(draw_parts, "_PIECE", 2**8)
    found = of_tensors(SHAPES, request.param)
    found.params["conv"] = found.params["conv"].to(memory_format=torch.channels_last)
    return found


def assert_same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert (a[name].dtype, a[name].shape, a[name].device) == (b[name].dtype, b[name].shape, b[name].device)
        assert torch.equal(a[name], b[name]), name


def check_pair(objective, n, **options):
    """Whatever can be asked of lazy directions and their chart is what stored ones say."""
    stored = ln.directions.random(objective, n, **options)
    lazy = ln.directions.random(objective, n, lazy=True, **options)
    for a, b in zip(stored, lazy, strict=True):
        assert_same(dict(a), dict(b))
        assert b.recipe["norm"] == pytest.approx(a.recipe["norm"], rel=1e-13)
        assert b.recipe["norms"] == pytest.approx(a.recipe["norms"], rel=1e-13)
        assert {**b.recipe, "norm": 0, "norms": 0} == {**a.recipe, "lazy": True, "norm": 0, "norms": 0}
    charts = [CHARTS[n](objective.params, *directions) for directions in (stored, lazy)]
    for point in POINTS:
        truth, made = (chart(point[:n]) for chart in charts)
        assert_same(truth, made)
        assert all(made[name].stride() == tensor.stride() for name, tensor in truth.items())
    said, lazily_said = (chart.describe() for chart in charts)
    assert lazily_said["cosines"] == pytest.approx(said["cosines"], abs=1e-15)
    assert np.allclose(lazily.gram(lazy), lazily.gram(stored), rtol=1e-12, atol=1e-9 * stored[0].recipe["norm"])
    assert lazily_said["center"] == said["center"]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("exclude", [("bias", "norm"), (), ("conv.*", "bias")])
def test_lazy_is_stored_bit_for_bit(objective, n, normalize, exclude):
    check_pair(objective, n, normalize=normalize, exclude=exclude, seed=3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("orthogonal", [True, False])
def test_in_other_precisions_and_from_the_uniform_distribution(everything, images, dtype, orthogonal):
    data = (images[0].to(dtype), images[1])
    objective = ln.Objective(everything.to(dtype), "cross_entropy", data)
    check_pair(objective, 2, distribution="uniform", orthogonal=orthogonal)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_tensors_of_many_slices(large, normalize):
    check_pair(large, 2, normalize=normalize, seed=1)


def test_slices_of_the_real_size():
    check_pair(of_tensors({"tall": (1100, 1000), "long": (2, 2**20 + 5)}, torch.bfloat16), 2, seed=1)


def test_lazy_and_stored_directions_may_be_mixed(objective):
    stored = ln.directions.random(objective, 2, seed=0)
    (other,) = ln.directions.random(objective, seed=1, exclude=())
    lazy = ln.directions.random(objective, 2, seed=0, lazy=True)
    (lazy_other,) = ln.directions.random(objective, seed=1, exclude=(), lazy=True)
    truth = ln.Volume(objective.params, *stored, other)
    for mixed in ((*lazy, other), (lazy[0], stored[1], lazy_other), (*lazy, lazy_other)):
        volume = ln.Volume(objective.params, *mixed)
        for point in (*POINTS, [0.0, 0.0, 2.0]):
            assert_same(truth(point), volume(point))
        assert volume.describe()["cosines"] == pytest.approx(truth.describe()["cosines"], abs=1e-14)


def test_the_origin_is_the_centres_own(objective):
    line = ln.Line(objective.params, *ln.directions.random(objective, lazy=True))
    assert all(line([0.0])[name] is tensor for name, tensor in line.center.items())
    assert all(line([0.5])[name] is line.center[name] for name in ("conv.bias", "bn.weight"))


def test_projection_inverts_a_chart(objective):
    plane = ln.Plane(objective.params, *ln.directions.random(objective, 2, lazy=True))
    found = plane.project(plane([0.5, -0.25]))
    np.testing.assert_allclose(found.coords, [0.5, -0.25], atol=1e-5)


def test_the_number_of_threads_changes_nothing(large):
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            lazy = ln.directions.random(large, 2, lazy=True)
            found.append((ln.Plane(large.params, *lazy)([0.5, 0.5]), [d.recipe for d in lazy], lazily.gram(lazy)))
    finally:
        torch.set_num_threads(before)
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    np.testing.assert_array_equal(found[0][2], found[1][2])


def test_points_are_made_in_inference_mode_too(large):
    plane = ln.Plane(large.params, *ln.directions.random(large, 2, lazy=True))
    with torch.inference_mode():
        inside = plane([0.5, 0.5])
        assert inside["tall"].is_inference()
    assert_same(inside, plane([0.5, 0.5]))


def test_lazy_directions_travel_small(large):
    """What is sent to another process is seeds and a few numbers a filter."""
    (d,) = ln.directions.random(large, lazy=True, normalize="layer")
    sent = pickle.dumps(d)
    assert len(sent) < 10_000
    assert torch.equal(pickle.loads(sent)["tall"], d["tall"])


# ---------------------------------------------------------------------- draws


def test_a_tensor_of_one_slice_is_one_draw_and_others_are_draws_by_slice():
    """The keys are part of the promise that a seed means the same directions tomorrow."""
    objective = of_tensors({"small": (30, 7), "tall": (3000, 1000)})
    (d,) = ln.directions.random(objective, normalize=None, orthogonal=False, seed=5, lazy=True)

    def drawn(name, count, *slice_number):
        key = np.random.SeedSequence(entropy=5, spawn_key=(0, zlib.crc32(name.encode()), *slice_number))
        return np.random.Generator(np.random.Philox(key)).standard_normal(count, dtype=np.float32)

    np.testing.assert_array_equal(d["small"].reshape(-1), drawn("small", 210))
    rows = 2**20 // 1000
    np.testing.assert_array_equal(d["tall"][:rows].reshape(-1), drawn("tall", rows * 1000))
    np.testing.assert_array_equal(d["tall"][rows : 2 * rows].reshape(-1), drawn("tall", rows * 1000, 1))
    np.testing.assert_array_equal(d["tall"][2 * rows :].reshape(-1), drawn("tall", (3000 - 2 * rows) * 1000, 2))


def test_directions_are_what_they_were_before_there_were_slices():
    """Numbers of the first version, whose draws were whole tensors; they must never change."""
    weights = {"w": torch.tensor([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])}
    objective = ln.Objective.from_function(lambda p: p["w"].sum(), weights)
    stored, lazy = (ln.directions.random(objective, 2, seed=7, lazy=how) for how in (False, True))
    expected = torch.tensor(
        [
            [
                [1.923564076423645, 1.260290265083313, 1.9265433549880981],
                [-3.225473642349243, -3.8153228759765625, -0.19907239079475403],
            ],
            [
                [2.2412633895874023, -1.5987590551376343, -1.1919344663619995],
                [1.0171372890472412, -1.1086814403533936, 4.768255233764648],
            ],
        ]
    )
    for directions in (stored, lazy):
        assert torch.equal(torch.stack([d["w"] for d in directions]), expected)


@pytest.mark.parametrize(
    "shape", [(), (7,), (3, 5), (3000, 1000), (3, 2**20 + 5), (2**21 + 1,), (0, 4), (4, 0), (5, 7, 2, 2)]
)
def test_slices_cut_every_weight_once_and_in_order(shape):
    entries = torch.arange(math.prod(shape), dtype=torch.int32).reshape(shape)
    found = [
        counter_based.block(entries, piece)
        for part in counter_based.slices(entries.shape)
        for piece in counter_based.pieces(part)
    ]
    assert all(0 < part.numel() <= 2**14 for part in found)
    joined = torch.cat([part.reshape(-1) for part in found]) if found else entries.reshape(-1)
    assert torch.equal(joined, entries.reshape(-1))
    assert [part.number for part in counter_based.slices(entries.shape)] == list(
        range(len(counter_based.slices(entries.shape)))
    )


def test_a_slice_is_made_alone():
    objective = of_tensors({"w": (3000, 1000)})
    (d, _) = ln.directions.random(objective, 2, lazy=True)
    whole, part = d["w"], counter_based.slices(d["w"].shape)[1]
    made = torch.cat([made[0] for made in d.family.draws.pieces("w", part, [0])])
    assert torch.equal(made, whole[part.rows])


def test_filters_of_two_entries_are_orthogonal_also_where_draws_are_nearly_parallel():
    """Of 200,000 pairs in the plane the closest is at an angle of about 1e-5."""
    objective = of_tensors({"w": (200_000, 2)})
    a, b = (d["w"].double() for d in ln.directions.random(objective, 2, seed=0))
    norms = objective.params["w"].double().norm(dim=1)
    for direction in (a, b):
        assert torch.allclose(direction.norm(dim=1), norms, rtol=1e-6, atol=0)
    assert ((a * b).sum(1).abs() <= 2e-7 * norms**2).all()


@pytest.mark.parametrize("name", ["groups", "one group", "GPT-2"])
def test_filters_along_the_second_axis(name, monkeypatch):
    monkeypatch.setattr(draw_parts, "_SLICE", 2**12)
    monkeypatch.setattr(draw_parts, "_PIECE", 2**8)
    module = {
        "groups": nn.ConvTranspose2d(6, 12, 3, groups=3, bias=False),
        "one group": nn.ConvTranspose1d(70, 90, 20, bias=False),
        "GPT-2": type("Conv1D", (nn.Module,), {})(),
    }[name]
    if name == "GPT-2":
        module.weight = nn.Parameter(torch.randn(120, 300))
    objective = of_tensors({"weight": module.weight.shape})
    objective.transposed = {"weight": getattr(module, "groups", 1)}
    check_pair(objective, 2)
    for a, b in itertools.combinations(ln.directions.random(objective, 3, lazy=True), 2):
        filters = [algebra.to_filters(d["weight"].double(), objective.transposed["weight"]) for d in (a, b)]
        norms = algebra.to_filters(objective.params["weight"].double(), objective.transposed["weight"]).norm(dim=1)
        assert all(torch.allclose(f.norm(dim=1), norms, rtol=1e-6, atol=0) for f in filters)
        assert ((filters[0] * filters[1]).sum(1).abs() <= 1e-6 * norms**2).all()


# ---------------------------------------------------------------------- precision


def test_a_point_of_a_bfloat16_model_is_summed_in_float32_and_rounded_once():
    objective = of_tensors({"w": (300, 400)}, torch.bfloat16)
    d1, d2 = ln.directions.random(objective, 2, lazy=True)
    center = objective.params["w"]
    point = ln.Plane(objective.params, d1, d2)([0.01, 0.02])["w"]
    assert d1["w"].dtype == torch.float32
    exact = center.double() + 0.01 * d1["w"].double() + 0.02 * d2["w"].double()
    in_float32 = torch.add(torch.add(center.float(), d1["w"], alpha=0.01), d2["w"], alpha=0.02)
    assert torch.equal(point, in_float32.bfloat16())
    assert ((point.double() - exact).abs() <= 1.0001 * 2**-8 * exact.abs() + 1e-8).all()  # half of the last of 8 bits


def test_small_steps_of_two_directions_do_not_vanish_one_by_one():
    """Each step is too small for a weight of 8 bits, both together are not."""
    objective = of_tensors({"w": (2, 2)}, torch.bfloat16)
    objective.params["w"].fill_(1.0)
    step = {"w": torch.full((2, 2), 0.003)}  # 1 + 0.003 rounds to 1, 1 + 0.006 to 1 + 2^-7
    nearly = {"w": torch.tensor([[0.003, 0.003], [0.003, -0.003]])}
    point = ln.Plane(objective.params, step, nearly)([1.0, 1.0])["w"].float()
    assert torch.equal(point, torch.tensor([[1 + 2**-7, 1 + 2**-7], [1 + 2**-7, 1.0]]))


def test_a_small_step_from_float32_masters_is_there_in_bfloat16_weights():
    """A weight that is a bfloat16 number stays itself under a small step; masters between them move on average."""
    objective = of_tensors({"w": (1000, 1000)})
    center = objective.params
    (d,) = ln.directions.random(objective, lazy=True)
    line, direction = ln.Line(center, d), d["w"].double()
    moved = line([1e-3])["w"].bfloat16().double() - center["w"].bfloat16().double()
    share = float((moved * direction).sum() / (1e-3 * (direction**2).sum()))
    assert share == pytest.approx(1, abs=0.03)


# ---------------------------------------------------------------------- around


def test_evaluate_gives_the_same_surface_and_says_lazy(objective):
    grid = ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 3))
    planes = [ln.Plane(objective.params, *ln.directions.random(objective, 2, lazy=how)) for how in (False, True)]
    assert [plane.lazy for plane in planes] == [False, True]
    truth, found = (ln.evaluate(objective, plane, grid, engine=ln.Local(plan="plain")) for plane in planes)
    assert (found["loss"] == truth["loss"]).all()
    assert [recipe["lazy"] for recipe in found.attrs["chart"]["directions"]] == [True, True]
    by_default = ln.evaluate(objective, planes[1], grid)
    assert by_default.attrs["engine"]["plan"] == "plain"
    assert "plans need stored directions" in by_default.attrs["engine"]["plan_events"][0]
    assert (by_default["loss"] == truth["loss"]).all()


def test_a_plan_is_never_given_the_directions(objective, monkeypatch):
    plane = ln.Plane(objective.params, *ln.directions.random(objective, 2, lazy=True))
    monkeypatch.setattr(lazily.LazyDirection, "__getitem__", lambda *_: pytest.fail("a whole tensor was drawn"))
    ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5)))
    with pytest.warns(errors.PlanFellBackWarning, match="lazy ones.*precision='float64' is not possible"):
        ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 2), beta=(-1, 1, 2)), engine=ln.Local(precision="float64"))


def test_rescaled_charts_refuse(objective):
    a, b = ln.directions.random(objective, 2, lazy=True)
    with pytest.raises(errors.ChartError, match="RescaledLine stores.*lazy=False"):
        ln.RescaledLine(objective.params, a)
    with pytest.raises(errors.ChartError, match="RescaledBilinear stores"):
        ln.RescaledBilinear(objective.params, a, b)


def test_lazy_directions_read_like_stored_ones(objective):
    (d,) = ln.directions.random(objective, lazy=True)
    assert "conv.weight" in d and "nowhere" not in d
    assert len(d) == len(objective.params)
    assert repr(d).startswith("LazyDirection(kind='random', normalize='filter', seed=0, norm=")
    assert not d["bn.weight"].any()
    with pytest.raises(KeyError):
        d["nowhere"]
    with pytest.raises(errors.StructureMismatchError, match="along alpha and the centre differ"):
        ln.Line({"x": torch.ones(2)}, d)
    with pytest.raises(errors.DirectionError, match="parallel or dependent"):
        ln.Plane(objective.params, d, d)


def test_an_objective_may_look_at_the_models_own_weights(everything, images):
    before = {name: tensor.clone() for name, tensor in everything.state_dict().items()}
    copied = ln.Objective(everything, "cross_entropy", images, params="*weight")
    looking = ln.Objective(everything, "cross_entropy", images, params="*weight", copy=False)
    assert looking.params["conv.weight"].data_ptr() == everything.conv.weight.data_ptr()
    assert looking._held["conv.bias"].data_ptr() == everything.conv.bias.data_ptr()
    assert not any(tensor.requires_grad for tensor in looking.params.values())
    assert looking.fingerprint == copied.fingerprint
    plane = ln.Plane(looking.params, *ln.directions.random(looking, 2, lazy=True))
    grid = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))
    found = ln.evaluate(looking, plane, grid)
    truth = ln.evaluate(copied, ln.Plane(copied.params, *ln.directions.random(copied, 2)), grid)
    assert (found["loss"] == truth["loss"]).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything.state_dict().items())
    assert all(parameter.requires_grad for parameter in everything.parameters())


def test_a_model_that_writes_into_its_weights_writes_into_copies():
    class Restless(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                self.weight.mul_(0.5)
            return super().forward(x)

    model = Restless(3, 1).eval()
    before = model.weight.detach().clone()
    objective = ln.Objective(model, "mse", (torch.ones(4, 3), torch.zeros(4, 1)), copy=False)
    first = objective.evaluate(objective.params)
    assert objective.evaluate(objective.params) == first
    assert torch.equal(model.weight, before)


MEMORY = """
import json, torch, lossnav as ln
from torch import nn
from benchmarks.memory import growth, status

def layers(width, count):
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(width, width, bias=False, dtype=torch.bfloat16) for _ in range(count)))
    model.to_empty(device="cpu").requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.normal_(std=width**-0.5)
    return model

def run(model):
    x = torch.ones(2, model[0].in_features, dtype=torch.bfloat16)
    objective = ln.Objective(model, "mse", (x, x), copy=False)
    volume = ln.Volume(objective.params, *ln.directions.random(objective, 3, normalize=NORMALIZE, lazy=True))
    ln.evaluate(objective, volume, ln.Points([[0, 0, 0], [1, 1, 1]], dims=volume.dims), progress=False)

run(layers(64, 2))
model = layers(4096, 4)
size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
before = model[0].weight.clone()
print(json.dumps({"model": size, "growth": growth(lambda: run(model)), "same": torch.equal(before, model[0].weight)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("normalize", ["filter", "layer"])
def test_a_run_takes_one_working_copy_whatever_the_number_of_directions(normalize):
    """67 million parameters, three directions: stored ones would take six times the model in float32."""
    script = MEMORY.replace("NORMALIZE", repr(normalize))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == 128
    assert found["growth"] < 1.3 * found["model"], found
    assert found["same"]
