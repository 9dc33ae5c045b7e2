"""Pictures with one thing wrong each, and pictures with nothing wrong: sizes, data and weights drawn from a seed."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lossnav as ln
from benchmarks.honesty_report_truth import Truth

Random = np.random.Generator
Draw = Callable[[Random], tuple[Any, Truth]]
PLAIN = ln.Local(plan="plain")


@dataclass(frozen=True)
class Case:
    """A kind of picture.

    Attributes
    ----------
    name : str
    draw : callable
        From a generator to a report and the truth of the picture.
    seen : mapping of str to str
        Of a misleading one: the levels, by the line of the report that must have one of them; with "~words" after them
        its sentence must hold these. Empty for a clean one.
    """

    name: str
    draw: Draw
    seen: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------- networks and data


class Own(nn.Module):
    """A network that returns its loss, one value a sample, weight decay included: it has a minimum, and is at it."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__()
        self.net, self.decay = net, decay

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """One value a sample."""
        size = sum((parameter**2).sum() for parameter in self.net.parameters())
        return F.cross_entropy(self.net(x), y, reduction="none") + self.decay * size


def clouds(random: Random, n: int, d: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Overlapping clouds, which no network separates."""
    middles = random.normal(size=(classes, d))
    y = random.integers(0, classes, n)
    return torch.as_tensor(middles[y] + 1.3 * random.normal(size=(n, d))), torch.as_tensor(y)


def net(random: Random, d: int, act: type[nn.Module] = nn.Tanh, norm: Any = None, bias: bool = True) -> nn.Module:
    """A network of one hidden layer in float64."""
    torch.manual_seed(int(random.integers(2**31)))
    width = int(random.integers(3, 6))
    layers = [nn.Linear(d, width, bias=bias), *([] if norm is None else [norm(width)]), act(), nn.Linear(width, 3)]
    return nn.Sequential(*layers).double().eval()


def minimise(model: Own, data: tuple[Tensor, Tensor]) -> Own:
    """Full-batch L-BFGS, to the last digit."""
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, history_size=30, line_search_fn="strong_wolfe", tolerance_grad=1e-9,
        tolerance_change=1e-14,
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(*data).mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return model


def trained(random: Random, act: type[nn.Module] = nn.Tanh, norm: Any = None) -> tuple[Own, tuple[Tensor, Tensor]]:
    """A network at a minimum of its loss on its data."""
    d = int(random.integers(3, 6))
    data = clouds(random, int(random.integers(250, 600)), d)
    network = net(random, d, act, norm)
    if norm is nn.BatchNorm1d:
        network.train()
        network(data[0])
    own = Own(network.eval(), float(random.uniform(0.005, 0.02)))
    return minimise(own, data).eval(), data


# ---------------------------------------------------------------------- pictures


def picture(
    objective: ln.Objective,
    chart: ln.charts.Chart,
    loss: Callable[[dict[str, Tensor]], Tensor] | None,
    n: int = 13,
    reach: float = 1.0,
    *,
    sampler: ln.Sampler | None = None,
    ask: bool = True,
    pass_chart: bool = True,
    edit: Callable[[Any], Any] | None = None,
    **so: Any,
) -> tuple[Any, Truth]:
    """Evaluate a chart, report on it (measured, if asked for), and say what is so of it."""
    ends = dict.fromkeys(chart.dims, (-reach, reach, n))
    surface = ln.evaluate(objective, chart, sampler or ln.Grid(**ends), engine=PLAIN, progress=False)
    surface = surface if edit is None else edit(surface)
    options: dict[str, Any] = {"objective": objective, "probes": 4, "progress": False} if ask else {}
    options |= {"chart": chart} if ask and pass_chart else {}
    center = {name: tensor.double() for name, tensor in chart.center.items()}
    directions = [{name: tensor.double() for name, tensor in d.items()} for d in chart.directions]
    truth = Truth(center, directions, loss, samples=objective.samples, **so)
    if loss is not None and "point" not in surface.dims:
        axes = [surface[dim].values for dim in chart.dims]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        with torch.no_grad():
            values = [loss(point_at(center, directions, place)).item() for place in places]
        truth.losses = np.array(values).reshape([len(axis) for axis in axes])
        middle = np.array(values)[(np.abs(places) <= np.abs(places).max(0) / 4 + 1e-9).all(1)]
        if len(middle) >= 3 ** len(axes):
            truth.rise = float(np.ptp(middle))
    return ln.report(surface, **options), truth


def point_at(center: dict[str, Tensor], directions: list[dict[str, Tensor]], place: Any) -> dict[str, Tensor]:
    """A point of a straight chart, by plain sums."""
    steps = list(zip(place, directions, strict=True))
    return {name: tensor + sum(float(x) * d[name] for x, d in steps) for name, tensor in center.items()}


def of_model(model: nn.Module, data: tuple[Tensor, Tensor], how: Callable[..., Tensor] | None = None) -> Any:
    """The mean loss of a model by functional_call, in float64."""
    wide = copy.deepcopy(model).double()
    x, y = (part.double() if part.is_floating_point() else part for part in data)

    def loss(params: dict[str, Tensor]) -> Tensor:
        if how is None:
            return torch.func.functional_call(wide, params, (x, y)).mean()
        return how(torch.func.functional_call(wide, params, (x,)), y)

    return loss


def network_picture(
    random: Random, act: type[nn.Module] = nn.Tanh, norm: Any = None, dims: int = 2, options: Any = None, **kind: Any
) -> tuple[Any, Truth]:
    """A plane, line or volume of random directions around a trained network, all of whose data is used."""
    model, data = trained(random, act, norm)
    how = {"reduction": "none", "batch_size": int(random.integers(60, 200))} | (options or {})
    objective = ln.Objective(model, None, data, **how)
    drawn = {"seed": int(random.integers(1000))} | kind.pop("drawn", {})
    chart = (ln.Line, ln.Plane, ln.Volume)[dims - 1](
        objective.params, *ln.directions.random(objective, n=dims, **drawn)
    )
    so: dict[str, Any] = {"statistics": int(norm is nn.BatchNorm1d), "buffers": len(list(model.buffers()))}
    loss = None if norm is nn.BatchNorm1d and how.get("bn") else of_model(model, data)
    return picture(objective, chart, loss, **so | {"depends_on_cut": False} | kind)


def bowl(random: Random, least: float = 0.5, extra: tuple[float, ...] = (), tilt: float = 0.0) -> Any:
    """An objective of one tensor with a known Hessian, and its loss."""
    d = int(random.integers(20, 60))
    bends = torch.as_tensor(np.concatenate([random.uniform(least, 2, d), extra]))
    low = float(random.uniform(0.1, 1))

    def loss(p: Any) -> Tensor:
        return low + (bends * p["x"] ** 2).sum() / 2 + tilt * p["x"][-1]

    return ln.Objective.from_function(loss, {"x": torch.full((len(bends),), 1e-3, dtype=torch.float64)}), loss


def function_picture(objective: Any, loss: Any, random: Random, reach: float = 1.0, **kind: Any) -> tuple[Any, Truth]:
    chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None, seed=int(random.integers(999))))
    so = {"is_function": True, "errors_seen": False}
    return picture(objective, chart, loss, 15, reach, **so | kind)


# ---------------------------------------------------------------------- clean


def _clean() -> list[Case]:
    def two_basins(random: Random) -> tuple[Any, Truth]:
        (a, data), start = trained(random), net(random, 1)
        start = copy.deepcopy(a)
        with torch.no_grad():
            for parameter in start.parameters():
                parameter.copy_(torch.as_tensor(random.normal(size=tuple(parameter.shape))))
        b = minimise(start, data)
        if a(*data).mean().item() < b(*data).mean().item():
            a, b = b, a  # the centre is the higher of the two
        objective = ln.Objective(a, None, data, reduction="none")
        chart = ln.Line(objective, ln.directions.between(objective, b))
        sampler = ln.Grid(alpha=(-0.3, 1.3, 33))
        return picture(objective, chart, of_model(a, data), sampler=sampler, statistics=0, buffers=0)

    def through(random: Random) -> tuple[Any, Truth]:
        a, data = trained(random)
        others = []
        for _ in range(2):
            other = copy.deepcopy(a)
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter.add_(torch.as_tensor(0.3 * random.normal(size=tuple(parameter.shape))))
            others.append(other)
        objective = ln.Objective(a, None, data, reduction="none")
        chart = ln.Plane(objective, *ln.directions.through(objective, *others))
        return picture(objective, chart, of_model(a, data), statistics=0, buffers=0)

    def subset(random: Random) -> tuple[Any, Truth]:
        model, _ = trained(random)
        d = model.net[0].in_features
        data = clouds(random, 4000, d)
        minimise(model, data)
        objective = ln.Objective(model, None, data, reduction="none").subset(1500, seed=int(random.integers(99)))
        chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=int(random.integers(99))))
        return picture(objective, chart, None, ask=bool(random.integers(2)), population=4000, statistics=0, buffers=0)

    def with_data(random: Random) -> tuple[Any, Truth]:
        d, n = int(random.integers(2, 5)), int(random.integers(200, 400))
        x, w = torch.as_tensor(random.normal(size=(n, d))), torch.as_tensor(random.normal(size=d))
        y = x @ w + torch.as_tensor(0.5 * random.normal(size=n))
        best = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]

        def single(p: Any, batch: Any) -> Tensor:
            return torch.as_tensor((batch[0] @ p["w"] - batch[1]) ** 2)

        objective = ln.Objective.from_function(single, {"w": best}, (x, y), reduction="none", batch_size=64)
        chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None))
        so = {"is_function": True, "depends_on_cut": False}
        return picture(objective, chart, lambda p: single(p, (x, y)).mean(), **so)

    def linear(random: Random) -> tuple[Any, Truth]:
        d, n = int(random.integers(3, 8)), int(random.integers(400, 900))
        x = torch.as_tensor(random.normal(size=(n, d)))
        y = x @ torch.as_tensor(random.normal(size=(d, 1))) + torch.as_tensor(0.7 * random.normal(size=(n, 1)))
        model = nn.Linear(d, 1, bias=False).double()
        model.weight.data = torch.linalg.lstsq(x, y).solution.T.contiguous()
        objective = ln.Objective(model, "mse", (x, y))
        chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
        loss = of_model(model, (x, y), F.mse_loss)
        return picture(objective, chart, loss, statistics=0, buffers=0, rescalable=False)

    def path(random: Random) -> tuple[Any, Truth]:
        model, data = trained(random)
        final = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        ways = [{n: torch.as_tensor(random.normal(size=tuple(t.shape))) for n, t in final.items()} for _ in range(2)]
        with tempfile.TemporaryDirectory() as folder:
            with ln.Trajectory(model, store=Path(folder) / "path") as trajectory:
                for i in range(30):
                    with torch.no_grad():
                        for name, parameter in model.named_parameters():
                            step = 0.5 * 0.85**i * ways[0][name] + 0.4 * 0.6**i * ways[1][name]
                            parameter.copy_(final[name] + step * (i < 29))
                    trajectory.step()
            found = ln.directions.pca(trajectory[1:])
            objective = ln.Objective(model, None, data, reduction="none")
            chart = ln.Plane(found.center, *found)
            line = ln.evaluate_trajectory(objective, chart, trajectory[1:], progress=False)
        return ln.report(line), Truth(statistics=0, buffers=0, samples=objective.samples)

    def seeds(random: Random) -> tuple[Any, Truth]:
        objective, _ = bowl(random)
        made = ln.ensemble(
            objective,
            lambda s: ln.Line(objective.params, *ln.directions.random(objective, normalize=None, seed=s)),
            ln.Grid(alpha=(-1, 1, 13)), seeds=range(3), engine=PLAIN, progress=False,
        )  # fmt: skip
        return ln.report(made), Truth(is_function=True, errors_seen=False)

    def stopped_at_the_end(random: Random) -> tuple[Any, Truth]:
        def edit(surface: Any) -> Any:  # Ctrl-C after the last point
            surface.attrs |= {"interrupted": True, "finished": False}
            return surface

        return network_picture(random, edit=edit, ask=False)

    def explored(random: Random) -> tuple[Any, Truth]:
        places = random.uniform(-1, 1, (80, 2))

        def edit(surface: Any) -> Any:  # as the explorer leaves a place
            sampler = {"kind": "Explorer", "axes": {"alpha": [-1, 1], "beta": [-1, 1]}}
            surface.attrs |= {"interrupted": False, "finished": False, "sampler": sampler}
            return surface

        return network_picture(random, sampler=ln.Points(places), edit=edit, ask=False)

    def small_float(random: Random) -> tuple[Any, Truth]:
        model, data = trained(random)
        single = copy.deepcopy(model).float()
        objective = ln.Objective(single, None, (data[0].float(), data[1]), reduction="none")
        chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2))
        return picture(objective, chart, of_model(model, data), statistics=0, buffers=0)

    def gridded(random: Random) -> tuple[Any, Truth]:
        return network_picture(
            random, sampler=ln.Points(random.uniform(-1, 1, (150, 2))), edit=lambda s: s.lossnav.to_grid(21), ask=False
        )

    def eigen(random: Random) -> tuple[Any, Truth]:
        model, data = trained(random)
        objective = ln.Objective(model, None, data, reduction="none")
        chart = ln.Plane(objective.params, *ln.directions.hessian(objective, n=2, progress=False))
        return picture(objective, chart, of_model(model, data), reach=0.5, statistics=0, buffers=0)

    def adaptive(random: Random) -> tuple[Any, Truth]:
        return network_picture(random, dims=1, sampler=ln.Adaptive(alpha=(-1, 1)), ask=bool(random.integers(2)))

    def everything(random: Random) -> tuple[Any, Truth]:
        return network_picture(random, drawn={"exclude": ()})

    return [
        Case("clean: plane, measured", network_picture),
        Case("clean: plane, stored alone", lambda r: network_picture(r, ask=False)),
        Case("clean: line, measured", lambda r: network_picture(r, dims=1, n=21)),
        Case("clean: volume", lambda r: network_picture(r, dims=3, n=7, ask=False)),
        Case("clean: every tensor moves", everything),
        Case("clean: LayerNorm", lambda r: network_picture(r, norm=nn.LayerNorm)),
        Case("clean: BatchNorm, statistics of the centre", lambda r: network_picture(r, norm=nn.BatchNorm1d)),
        Case("clean: BatchNorm, statistics anew", lambda r: network_picture(
            r, norm=nn.BatchNorm1d, options={"bn": "recompute"}, ask=False)),
        Case("clean: ReLU, filter-normalised", lambda r: network_picture(r, act=nn.ReLU, ask=False)),
        Case("clean: tanh, not normalised, small steps", lambda r: network_picture(
            r, drawn={"normalize": None}, rescalable=False, reach=0.5)),
        Case("clean: two basins, the other one lower", two_basins),
        Case("clean: through three networks", through),
        Case("clean: a large subset", subset),
        Case("clean: function with data", with_data),
        Case("clean: function, measured", lambda r: function_picture(*bowl(r), r)),
        Case("clean: function, stored alone", lambda r: function_picture(*bowl(r), r, ask=False)),
        Case("clean: linear regression", linear),
        Case("clean: path down a valley", path),
        Case("clean: three seeds", seeds),
        Case("clean: stopped after the last point", stopped_at_the_end),
        Case("clean: explored", explored),
        Case("clean: float32", small_float),
        Case("clean: interpolated", gridded),
        Case("clean: along eigenvectors", eigen),
        Case("clean: adaptive", adaptive),
        Case("clean: automatic range", lambda r: network_picture(
            r, sampler=ln.Grid(alpha=("auto", 13), beta=("auto", 13)), ask=False)),
    ]  # fmt: skip


def cases() -> list[Case]:
    """All of them."""
    from benchmarks.honesty_report_planted import planted

    return [*_clean(), *planted()]
