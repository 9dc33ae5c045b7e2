"""Pictures with one thing wrong each, that the report must see, or say that it does not know."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lossnav as ln
from benchmarks.honesty_report_cases import (
    PLAIN,
    Case,
    Own,
    Random,
    bowl,
    clouds,
    minimise,
    net,
    network_picture,
    of_model,
    picture,
    trained,
)
from benchmarks.honesty_report_truth import Truth


def _biases(random: Random) -> tuple[Any, Truth]:
    model, data = trained(random)
    objective = ln.Objective(model, None, data, reduction="none")
    shapes = {name: tuple(tensor.shape) for name, tensor in objective.params.items()}
    ways = [
        {n: torch.as_tensor(random.normal(size=shape)) * n.endswith("bias") for n, shape in shapes.items()}
        for _ in range(2)
    ]
    return picture(objective, ln.Plane(objective.params, *ways), of_model(model, data), ask=False)


def _zeroed(random: Random) -> tuple[Any, Truth]:
    """Pruned: some filters of the hidden layer are zero."""
    model, data = trained(random)
    with torch.no_grad():
        model.net[0].weight[: int(random.integers(1, 3))] = 0
    objective = ln.Objective(model, None, data, reduction="none")
    chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2, exclude=()))
    return picture(objective, chart, of_model(model, data), ask=False)


class _Lora(nn.Module):
    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(rank, base.in_features, dtype=torch.float64))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.A.T @ self.B.T


def _lora(random: Random) -> tuple[Any, Truth]:
    d = int(random.integers(3, 6))
    data = clouds(random, 300, d)
    torch.manual_seed(int(random.integers(2**31)))
    model = _Lora(nn.Linear(d, 3).double(), 2)
    held = sum(tensor.numel() for tensor in model.base.parameters())
    model.base.requires_grad_(False)
    objective = ln.Objective(model, "cross_entropy", data, params=["A", "B"])
    chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
    return picture(objective, chart, of_model(model, data, F.cross_entropy), ask=False, held=held)


def _held(random: Random) -> tuple[Any, Truth]:
    model, data = trained(random)
    objective = ln.Objective(model, None, data, reduction="none", params="net.2.*")
    chart = ln.Line(objective.params, *ln.directions.random(objective, exclude=()))
    held = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("net.2."))
    return picture(objective, chart, of_model(model, data), ask=False, held=held)


def _hidden_errors(random: Random) -> tuple[Any, Truth]:
    """A loss that hides its samples, with ripples."""
    d, n, rate = 2, int(random.integers(100, 300)), float(random.uniform(9, 14))
    x = torch.as_tensor(random.normal(size=(n, d)))
    y = x.sum(1, keepdim=True)
    model = nn.Linear(d, 1, bias=False).double()
    model.weight.data.fill_(1e-9)
    way = {"weight": torch.as_tensor([[1.0, 0.0]])}

    def rippled(out: Tensor, target: Tensor) -> Tensor:
        alpha = out.square().mean().sqrt() / x[:, 0].square().mean().sqrt()
        return F.mse_loss(out, target) * 0.2 + 0.15 * torch.cos(rate * alpha.clamp_min(1e-12))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objective = ln.Objective(model, rippled, (x, y), count=len, reduction="mean", batch_size=n)
    chart = ln.Line(objective.params, way)
    how = of_model(model, (x, y), rippled)
    return picture(
        objective, chart, how, sampler=ln.Grid(alpha=(-2, 2, 61)), ask=False, errors_seen=False, statistics=0
    )


def _slope(ask: bool) -> Any:
    def draw(random: Random) -> tuple[Any, Truth]:
        objective, loss = bowl(random, least=1.0, extra=(1.0,), tilt=float(random.uniform(0.3, 0.5)))
        flat = objective.params["x"].clone()
        way = torch.as_tensor(random.normal(size=len(flat)))
        way[-1] = 0  # the slope is in no picture
        chart = ln.Line(objective.params, {"x": way / way.norm()})
        return picture(objective, chart, loss, 15, 0.5, ask=ask, is_function=True, errors_seen=False)

    return draw


def _closure(random: Random) -> tuple[Any, Truth]:
    """A function that holds a network and data of its own, of which nothing is seen."""
    model, data = trained(random)
    loss = of_model(model, data)
    center = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    objective = ln.Objective.from_function(loss, center)
    chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2, exclude=()))
    so = {"is_function": True, "closes_over_data": True, "errors_seen": False}
    return picture(objective, chart, loss, ask=bool(random.integers(2)), **so)


def _normed(tracks: bool = True, **options: Any) -> Any:
    def draw(random: Random) -> tuple[Any, Truth]:
        d = int(random.integers(3, 6))
        data = clouds(random, 240, d)
        model = net(random, d, nn.ReLU, lambda width: nn.BatchNorm1d(width, track_running_stats=tracks))
        model.train()
        model(data[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            objective = ln.Objective(model.eval(), "cross_entropy", data, batch_size=40, **options)
        chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
        so = {"statistics": int(tracks), "own_statistics": int(not tracks), "buffers": 3 * tracks}
        return picture(objective, chart, None, 11, ask=False, **so)

    return draw


def _another_run(random: Random) -> tuple[Any, Truth]:
    """The weights of one network with the statistics of another."""
    d = int(random.integers(3, 6))
    data = clouds(random, 240, d)
    models = []
    for shift in (0.0, 2.0):
        model = net(random, d, nn.ReLU, nn.BatchNorm1d).train()
        model(data[0] + shift)
        models.append(model.eval())
    first = models[0]
    other = copy.deepcopy(first)
    other.load_state_dict(models[1].state_dict() if models[1][0].weight.shape == first[0].weight.shape else {
        name: tensor + 0.5 * tensor.is_floating_point() for name, tensor in first.state_dict().items()
    })  # fmt: skip
    objective = ln.Objective(first, "cross_entropy", data)
    center = {name: parameter.detach().clone() for name, parameter in other.named_parameters()}
    chart = ln.Line(center, *ln.directions.random(objective))
    return picture(objective, chart, None, 11, ask=False, statistics=1)


def _interrupted(random: Random) -> tuple[Any, Truth]:
    many = int(random.integers(2, 9))

    def edit(surface: Any) -> Any:  # as a run leaves it that was stopped in the middle
        for name in surface.data_vars:
            surface[name][-many:] = 0 if name == "status" else np.nan
        surface.attrs |= {"interrupted": True, "finished": False}
        return surface

    return network_picture(random, edit=edit, ask=False, complete=False)


class _Detached(nn.Module):
    """Of which one layer never reaches the loss."""

    def __init__(self, inner: nn.Module, all_of_it: bool) -> None:
        super().__init__()
        self.inner, self.all_of_it = inner, all_of_it
        self.unused = nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        return torch.zeros_like(out) + 0 * out.sum().clamp(0, 0) if self.all_of_it else out


def _constant(along: bool) -> Any:
    def draw(random: Random) -> tuple[Any, Truth]:
        d = int(random.integers(3, 6))
        data = clouds(random, 200, d)
        model = _Detached(net(random, d), all_of_it=not along)
        objective = ln.Objective(model, "cross_entropy", data)
        ways = [*ln.directions.random(objective, n=2)]
        if along:
            ways[1] = {n: t * n.startswith("unused") for n, t in ways[1].items()}
            ways[0] = {n: t * (not n.startswith("unused")) for n, t in ways[0].items()}
        loss = of_model(model, data, F.cross_entropy)
        return picture(objective, ln.Plane(objective.params, *ways), loss, 11, ask=False, buffers=0)

    return draw


def _ranged(steep: bool) -> Any:
    def draw(random: Random) -> tuple[Any, Truth]:
        bend = float(random.uniform(1e8, 1e9)) if steep else float(random.uniform(1e-4, 1e-3))

        def loss(p: Any) -> Tensor:
            return 0.5 + (bend * p["x"] ** 2).sum()

        objective = ln.Objective.from_function(loss, {"x": torch.zeros(3, dtype=torch.float64)})
        chart = ln.Line(objective.params, {"x": torch.ones(3, dtype=torch.float64)})
        sampler = ln.Grid(alpha=("auto", 21))
        return picture(objective, chart, loss, sampler=sampler, ask=False, is_function=True, errors_seen=False)

    return draw


def _path(kind: str) -> Any:
    def draw(random: Random) -> tuple[Any, Truth]:
        d, m = 1500, int(random.integers(30, 60))
        points = random.standard_normal((m, d))
        if kind != "stationary":
            points = np.cumsum(points, 0)
        model = nn.Linear(d, 1, bias=False).double()
        x = torch.as_tensor(random.normal(size=(20, d)))
        with tempfile.TemporaryDirectory() as folder:
            with ln.Trajectory(model, store=Path(folder) / "path") as trajectory:
                for point in points:
                    model.weight.data.copy_(torch.as_tensor(point)[None])
                    trajectory.step()
            path = trajectory[1:]
            found = ln.directions.pca(path, center="mean" if random.integers(2) else "final")
            objective = ln.Objective(model, "mse", (x, torch.zeros(20, 1).double())).at(
                {"weight": found.center["weight"]}
            )
            chart = ln.Plane(found.center, *found)
            if kind == "off":
                chart = ln.Plane(found.center, *ln.directions.random(objective, n=2, normalize="layer"))
            line = ln.project(path, chart)
        return ln.report(line), Truth()

    return draw


def _saddle(random: Random) -> tuple[Any, Truth]:
    least = -float(random.uniform(0.2, 0.6))
    objective, loss = bowl(random, least=1.0, extra=(least, 4.0))
    way = torch.as_tensor(random.normal(size=len(objective.params["x"])))
    way[-2] = 0
    objective = objective.around({"x": torch.zeros_like(way)})
    chart = ln.Line(objective.params, {"x": way / way.norm()})
    return picture(objective, chart, loss, 15, is_function=True, errors_seen=False)


def _top(random: Random) -> tuple[Any, Truth]:
    """Stationary, and no minimum: the picture bends up, most of the rest down."""
    objective, loss = bowl(random, least=1.0, extra=tuple(-random.uniform(0.5, 2, 9)))
    d = len(objective.params["x"])
    way = torch.zeros(d, dtype=torch.float64)
    way[: d - 9] = torch.as_tensor(random.normal(size=d - 9))
    objective = objective.around({"x": torch.zeros(d, dtype=torch.float64)})
    chart = ln.Line(objective.params, {"x": way / way.norm()})
    return picture(objective, chart, loss, 15, is_function=True, errors_seen=False)


def _few(random: Random) -> tuple[Any, Truth]:
    model, data = trained(random)
    objective = ln.Objective(model, None, data, reduction="none").subset(int(random.integers(8, 28)), seed=1)
    chart = ln.Line(objective.params, *ln.directions.random(objective))
    return picture(objective, chart, None, 15, ask=False, population=len(data[0]))


def _duplicates(random: Random) -> tuple[Any, Truth]:
    model, (x, y) = trained(random)
    times = int(random.integers(3, 8))
    data = x[:60].repeat(times, 1), y[:60].repeat(times)
    objective = ln.Objective(model, None, data, reduction="none")
    chart = ln.Line(objective.params, *ln.directions.random(objective))
    return picture(objective, chart, of_model(model, data), 15, ask=False)


def _noise(random: Random) -> tuple[Any, Truth]:
    model, data = trained(random)
    objective = ln.Objective(model, None, data, reduction="none").subset(int(random.integers(35, 60)), seed=2)
    chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
    return picture(objective, chart, None, 13, float(random.uniform(0.05, 0.15)), ask=False, population=len(data[0]))


def _untrained(ask: bool) -> Any:
    def draw(random: Random) -> tuple[Any, Truth]:
        d = int(random.integers(3, 6))
        data = clouds(random, 2000, d)
        model = Own(net(random, d), 0.005)
        objective = ln.Objective(model, None, data, reduction="none")
        way = ln.directions.gradient(objective)
        chart = ln.Line(objective.params, {n: t * 1.0 / way.recipe["norm"] for n, t in way.items()})
        return picture(objective, chart, of_model(model, data), 21, 2.0, ask=ask, statistics=0)

    return draw


def _angled(cosine: tuple[float, float], ratio: tuple[float, float]) -> Any:
    def draw(random: Random) -> tuple[Any, Truth]:
        objective, loss = bowl(random)
        c, r = random.uniform(*cosine), random.uniform(*ratio)
        a, b = np.linalg.qr(random.normal(size=(len(objective.params["x"]), 2)))[0].T
        ways = [{"x": torch.as_tensor(v)} for v in (a, r * (c * a + np.sqrt(1 - c**2) * b))]
        chart = ln.Plane(objective.params, *ways)
        return picture(objective, chart, loss, 11, 0.5, ask=False, is_function=True, errors_seen=False)

    return draw


def _plain_relu(ask: bool) -> Any:
    def draw(random: Random) -> tuple[Any, Truth]:
        d = int(random.integers(3, 6))
        data = clouds(random, 400, d)
        model = net(random, d, nn.ReLU)
        own = minimise(Own(model, 0.01), data)
        objective = ln.Objective(own.net, "cross_entropy", data)
        with torch.no_grad():  # the same by hand: one layer doubled, the next halved
            twin = copy.deepcopy(own.net)
            twin[0].weight *= 2
            twin[0].bias *= 2
            twin[2].weight /= 2
            same = torch.allclose(twin(data[0]), own.net(data[0]))
        chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2, normalize=None))
        loss = of_model(own.net, data, F.cross_entropy)
        return picture(objective, chart, loss, 13, 0.3, ask=ask, statistics=0, rescalable=same)

    return draw


def _rounded(random: Random) -> tuple[Any, Truth]:
    model, data = trained(random)
    single = copy.deepcopy(model).float()
    objective = ln.Objective(single, None, (data[0].float(), data[1]), reduction="none")
    chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
    return picture(
        objective, chart, None, 11, float(random.uniform(1e-6, 1e-5)), ask=bool(random.integers(2)), statistics=0
    )


def _holes(random: Random) -> tuple[Any, Truth]:
    edge = float(random.uniform(0.3, 0.7))

    def loss(p: Any) -> Tensor:
        return (1 + (p["x"] ** 2).sum()) * torch.where(p["x"][0] > edge, torch.inf, 1.0)

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(4, dtype=torch.float64)})
    chart = ln.Plane(objective.params, *({"x": torch.eye(4, dtype=torch.float64)[i]} for i in (0, 1)))
    return picture(objective, chart, loss, 15, ask=False, is_function=True, errors_seen=False)


def _jagged(random: Random) -> tuple[Any, Truth]:
    step = random.uniform(1.6, 4.6) + 2 * np.pi * random.integers(3, 9)  # radians from point to point: no slow alias
    rate = float(step / 0.1)

    def loss(p: Any) -> Tensor:
        return 3 + torch.cos(rate * p["x"]).sum()

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(2, dtype=torch.float64)})
    chart = ln.Plane(objective.params, *({"x": torch.eye(2, dtype=torch.float64)[i]} for i in (0, 1)))
    return picture(objective, chart, None, 21, ask=False, is_function=True, errors_seen=False)


def _cut(random: Random) -> tuple[Any, Truth]:
    """A loss that compares the samples of a batch with each other."""
    d = int(random.integers(3, 6))
    data = clouds(random, 120, d)
    model = net(random, d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objective = ln.Objective(
            model, lambda out, y: F.cross_entropy(out - out.mean(0), y) + out.std(), data, batch_size=30
        )
    chart = ln.Line(objective.params, *ln.directions.random(objective))
    return picture(objective, chart, None, 11, ask=False, depends_on_cut=True, errors_seen=False, statistics=0)


def _noisy(random: Random) -> tuple[Any, Truth]:
    size = float(random.uniform(0.02, 0.1))

    def loss(p: Any) -> Tensor:
        noise = 2 * int.from_bytes(os.urandom(4), "big") / 2**32 - 1  # which no seed and no state holds
        return torch.as_tensor((1 + (p["x"] ** 2).sum()) * (1 + 1.7 * size * noise))

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(3, dtype=torch.float64)})
    line = ln.Line(objective.params, {"x": torch.ones(3, dtype=torch.float64)})
    sampler = ln.Adaptive(alpha=(-1, 1), max_points=200)
    surface = ln.evaluate(objective, line, sampler, engine=PLAIN, progress=False, check=False)
    return ln.report(surface), Truth(is_function=True, errors_seen=False)


def _far_from_zero(random: Random) -> tuple[Any, Truth]:
    """A plane of a linear function, whose constant is far larger than its rise."""
    d, far = int(random.integers(5, 30)), float(random.choice([-1, 1]) * random.uniform(50, 500))
    way = torch.as_tensor(random.normal(size=d))

    def loss(p: Any) -> Tensor:
        return torch.as_tensor(far + way @ p["x"])

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(d, dtype=torch.float64)})
    chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None, seed=int(random.integers(999))))
    return picture(objective, chart, loss, 15, ask=bool(random.integers(2)), is_function=True, errors_seen=False)


class _Sampled(nn.Module):
    """A network whose output has noise, in eval mode too."""

    def __init__(self, net: nn.Module, size: float) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        return torch.as_tensor(out + self.size * torch.randn_like(out))


def _noise_in_eval_mode(random: Random) -> tuple[Any, Truth]:
    d = int(random.integers(3, 6))
    data = clouds(random, 300, d)
    model = _Sampled(net(random, d), float(random.uniform(0.05, 0.5))).eval()
    objective = ln.Objective(model, "cross_entropy", data, seed=int(random.integers(99)))
    chart = ln.Line(objective.params, *ln.directions.random(objective))
    return picture(objective, chart, None, 11, ask=bool(random.integers(2)), statistics=0)


class _Whitened(nn.Module):
    """A normaliser with statistics of its own names."""

    location: Tensor
    spread: Tensor

    def __init__(self, data: Tensor) -> None:
        super().__init__()
        self.register_buffer("location", data.mean(0))
        self.register_buffer("spread", data.std(0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor((x - self.location) / self.spread)


def _own_statistics(random: Random) -> tuple[Any, Truth]:
    d = int(random.integers(3, 6))
    data = clouds(random, 300, d)
    inner = net(random, d)
    model = nn.Sequential(inner[0], _Whitened(inner[0](data[0]).detach()), *inner[1:]).eval()
    objective = ln.Objective(model, "cross_entropy", data)
    chart = ln.Line(objective.params, *ln.directions.random(objective))
    return picture(objective, chart, None, 11, ask=bool(random.integers(2)), own_statistics=1, buffers=2)


def _seeds(random: Random) -> tuple[Any, Truth]:
    bends = torch.as_tensor(np.concatenate([random.uniform(0.001, 0.01, 3), random.uniform(50, 100, 1)]))
    low = 0.2

    def loss(p: Any) -> Tensor:
        return low + (bends * p["x"] ** 2).sum()

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(4, dtype=torch.float64)})
    made = ln.ensemble(
        objective, lambda s: ln.Line(objective.params, *ln.directions.random(objective, normalize=None, seed=s)),
        ln.Grid(alpha=(-1, 1, 11)), seeds=range(int(random.integers(50)), 60), engine=PLAIN, progress=False,
    )  # fmt: skip
    return ln.report(made), Truth(is_function=True, errors_seen=False)


def _digits(random: Random) -> tuple[Any, Truth]:
    """Ripples of single precision alone: far from the centre's own size nothing moves but the last digits."""
    w = torch.as_tensor(30 * random.normal(size=500)).float()

    def loss(p: Any) -> Tensor:
        return ((w + p["x"]) ** 2).sum() - 2 * (w * p["x"]).sum()  # |w|^2 + |x|^2, but for the digits

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(500)})
    line = ln.Line(objective.params, {"x": torch.as_tensor(random.normal(size=500)).float() * 0.03})
    return picture(objective, line, None, 61, 1.0, ask=False, is_function=True, errors_seen=False)


def planted() -> list[Case]:
    """Every one of them."""
    return [
        Case("ripples, the loss hides its samples", _hidden_errors, {"ripples": "unknown", "noise": "unknown"}),
        Case("directions along biases alone", _biases, {"held still": "note~entries"}),
        Case("zero filters", _zeroed, {"held still": "note~0.weight"}),
        Case("LoRA whose B is zero", _lora, {"held still": "note~B"}),
        Case("parameters held by the objective", _held, {"held still": "note~net.0.weight"}),
        Case("a slope that is not drawn, stored alone", _slope(False), {"minimum": "unknown"}),
        Case("a slope that is not drawn, measured", _slope(True), {"minimum": "warning", "descent": "note"}),
        Case("a function with data inside", _closure, {"data": "unknown", "noise": "unknown"}),
        Case("BatchNorm, stored alone", _normed(), {"batch norm": "note~1 BatchNorm layer"}),
        Case("BatchNorm without running statistics", _normed(False), {"batch norm": "warning"}),
        Case("BatchNorm of each batch", _normed(bn="batch"), {"batch norm": "warning"}),
        Case("statistics of another network", _another_run, {"buffers": "warning"}),
        Case("stopped in the middle", _interrupted, {"unfinished": "warning"}),
        Case("a constant loss", _constant(False), {"constant": "warning"}),
        Case("constant along one axis", _constant(True), {"constant": "warning~beta"}),
        Case("automatic range at its floor", _ranged(True), {"automatic range": "note~smallest"}),
        Case("automatic range at its cap", _ranged(False), {"automatic range": "note~capped"}),
        Case("a path about one place", _path("stationary"), {"random walk": "warning~to and fro"}),
        Case("a random walk", _path("walk"), {"random walk": "warning~diffusion"}),
        Case("a path off the plane", _path("off"), {"off the plane": "warning"}),
        Case("a saddle that looks convex", _saddle, {"saddle": "warning", "minimum": "note"}),
        Case("stationary but not a minimum", _top, {"saddle": "warning", "minimum": "note"}),
        Case("too few samples", _few, {"data": "warning"}),
        Case("every sample several times", _duplicates, {"intervals": "warning"}),
        Case("a rise within the noise", _noise, {"noise": "warning|unknown"}),
        Case("a centre that is not a minimum, stored alone", _untrained(False), {"minimum": "warning"}),
        Case("a centre that is not a minimum, measured", _untrained(True), {"minimum": "warning"}),
        Case("nearly parallel directions", _angled((0.92, 0.99), (1, 1.5)), {"angles": "warning"}),
        Case("directions of unequal length", _angled((0, 0.05), (12, 50)), {"lengths": "warning"}),
        Case("ReLU, not normalised, stored alone", _plain_relu(False), {"scale": "warning"}),
        Case("ReLU, not normalised, measured", _plain_relu(True), {"scale": "warning"}),
        Case("a range below the digits", _rounded, {"precision": "warning"}),
        Case("ripples of the arithmetic", _digits, {"ripples": "note~numerical error", "precision": "warning|note"}),
        Case("a fifth and more is not finite", _holes, {"holes": "warning"}),
        Case("finer than the grid", _jagged, {"grid": "warning"}),
        Case("a loss of its batch", _cut, {"batches": "warning"}),
        Case("noise at one place", _noisy, {"adaptive_noise": "warning"}),
        Case("seeds that differ", _seeds, {"seeds": "warning"}),
        Case("a slope far from zero", _far_from_zero, {"minimum": "warning"}),
        Case("noise in eval mode", _noise_in_eval_mode, {"random numbers": "note~of seed"}),
        Case("statistics by names of one's own", _own_statistics, {"batch norm": "unknown~location"}),
    ]
