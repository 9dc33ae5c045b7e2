"""What somebody types who has not read the manual: it works, or one sentence says what is wrong and what to type.

Each row: what is typed, the type of the exception, and words that help. Where a row holds the repaired call too, that
works: the line that a message gives is one that can be typed.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import lossnav as ln
from lossnav.errors import (
    ChartError,
    DataError,
    DeviceError,
    DirectionError,
    LossnavError,
    LossShapeError,
    NotASurfaceError,
    ObjectiveError,
    OptionError,
    SamplerError,
    SpecError,
    StructureMismatchError,
)
from lossnav.objective.diagnosis import explained

_G = torch.Generator().manual_seed(0)
X = torch.randn(20, 4, generator=_G)
Y = torch.randint(0, 3, (20,), generator=_G)


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)).eval()


class Wrapped(nn.Module):
    """Returns what it is told to make of the outputs."""

    def __init__(self, finish: Any) -> None:
        super().__init__()
        self.net, self.finish = net(), finish

    def forward(self, x: Tensor) -> Any:
        return self.finish(self.net(x))


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values)


class Masked(Pixels):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.net(x) * mask


class Losses(nn.Module):
    """As detection models do: several losses by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        made = self.net(x)
        return {"loss_class": F.cross_entropy(made, y), "loss_size": made.square().mean()}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x))


@dataclass
class Graph:
    x: Tensor
    edge_index: Tensor
    y: Tensor


class OverGraph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, graph: Graph) -> Tensor:
        return self.net(graph.x)


class Samples(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i], Y[i]


class Inputs(Samples):
    def __getitem__(self, i: int) -> Tensor:
        return X[i]


class ByName(Samples):
    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"image": X[i], "labels": Y[i]}


MODEL, OTHER = net(), net()
with torch.no_grad():
    for parameter in OTHER.parameters():
        parameter.add_(0.1)
GRAPHS = [Graph(X[:10], torch.zeros(2, 4).long(), Y[:10]), Graph(X[10:], torch.zeros(2, 4).long(), Y[10:])]
AXIS = (-1, 1, 5)


def objective() -> ln.Objective:
    return ln.Objective(net(), F.cross_entropy, (X, Y))


def directions(n: int = 2) -> Any:
    return ln.directions.random(objective(), n=n)


def line() -> ln.Line:
    return ln.Line(objective().params, *directions(1))


def plane() -> ln.Plane:
    return ln.Plane(objective().params, *directions())


def surface(of: Any = None) -> Any:
    chart = of or plane()
    return ln.evaluate(objective(), chart, ln.Grid(**dict.fromkeys(chart.dims, AXIS)), progress=False)


def made(model: Any = None, loss: Any = "cross_entropy", data: Any = (X, Y), **options: Any) -> Any:
    return ln.Objective(MODEL if model is None else model, loss, data, **options)


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)


def command(*words: str) -> None:
    """What a command raises; it prints the same and ends with 1, or 2 for usage."""
    from typer.testing import CliRunner

    from lossnav import cli

    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code in (1, 2)
    kind, _, message = done.output.strip().partition(": ")
    raise getattr(ln.errors, kind)(message)


def used_up() -> Any:
    batches = (batch for batch in [(X, Y)])
    list(batches)
    return batches


def elsewhere(outputs: Tensor, targets: Tensor) -> Tensor:
    """As torch says it of class weights on another device."""
    raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!")


evaluated = ln.evaluate

MISTAKES: dict[str, tuple[Any, type[Exception], list[str]]] = {
    # one noun in the place of another
    "random(model)": (
        lambda: ln.directions.random(MODEL, n=2),
        OptionError,
        ["Sequential", "ln.Objective(model, loss, data)"],
    ),
    "hessian(model)": (lambda: ln.directions.hessian(MODEL), OptionError, ["Sequential", "ln.Objective("]),
    "gradient(state dict)": (
        lambda: ln.curvature.gradient(MODEL.state_dict()),
        OptionError,
        ["Weights alone have no loss"],
    ),
    "spectrum(surface)": (lambda: ln.spectrum(surface()), OptionError, ["a surface", "ln.Objective("]),
    "sharpness(model)": (lambda: ln.sharpness(MODEL, "sam"), OptionError, ["Sequential", "ln.Objective("]),
    "evaluate(model)": (
        lambda: evaluated(MODEL, line(), ln.Grid(alpha=AXIS)),
        OptionError,
        ["Sequential", "ln.Objective("],
    ),
    "evaluate(chart, objective)": (
        lambda: evaluated(line(), objective(), ln.Grid(alpha=AXIS)),
        OptionError,
        ["a chart", "ln.evaluate(objective, chart, sampler)"],
    ),
    "evaluate(direction)": (
        lambda: evaluated(objective(), directions(1)[0], ln.Grid(alpha=AXIS)),
        OptionError,
        ["a direction", "ln.Line(objective.params, direction)"],
    ),
    "evaluate(Plane)": (
        lambda: evaluated(objective(), ln.Plane, ln.Grid(alpha=AXIS)),
        OptionError,
        ["the class Plane", "Plane(…)"],
    ),
    "sampler (-1, 1, 5)": (
        lambda: evaluated(objective(), line(), AXIS),
        OptionError,
        ["a tuple of 3", "ln.Grid(alpha="],
    ),
    "sampler linspace": (
        lambda: evaluated(objective(), line(), np.linspace(-1, 1, 5)),
        OptionError,
        ["shape (5,)", "ln.Grid(alpha="],
    ),
    "engine='ray'": (
        lambda: evaluated(objective(), line(), ln.Grid(alpha=AXIS), engine="ray"),
        OptionError,
        ["'ray'", "engine=ln.Ray()"],
    ),
    "engine=Local": (
        lambda: evaluated(objective(), line(), ln.Grid(alpha=AXIS), engine=ln.Local),
        OptionError,
        ["the class Local", "Local(…)"],
    ),
    "estimate(chart, objective)": (
        lambda: ln.estimate(line(), objective(), ln.Grid(alpha=AXIS)),
        OptionError,
        ["a chart", "order"],
    ),
    "stream(model)": (lambda: next(ln.stream(MODEL, line(), ln.Grid(alpha=AXIS))), OptionError, ["Sequential"]),
    "on_chart(model)": (lambda: ln.evaluate_curvature(MODEL, line(), ln.Grid(alpha=AXIS)), OptionError, ["Sequential"]),
    "pca(list of weights)": (lambda: ln.directions.pca([{}, {}, {}]), OptionError, ["a list of 3", "ln.Trajectory"]),
    "project(array, plane)": (lambda: ln.project(np.zeros(3), plane()), OptionError, ["ndarray", "ln.Trajectory"]),
    "Plane(params, directions)": (
        lambda: ln.Plane(objective().params, directions()),
        DirectionError,
        ["a tuple of 2", "ln.Plane(center, *directions)"],
    ),
    "RescaledBilinear(params, directions)": (
        lambda: ln.RescaledBilinear(objective().params, directions()),
        DirectionError,
        ["star"],
    ),
    "through([a, b])": (lambda: ln.directions.through([MODEL, OTHER]), OptionError, ["one by one", "*points"]),
    "Line(params, model)": (
        lambda: ln.Line(objective().params, OTHER),
        DirectionError,
        ["which is a point", "ln.directions.between"],
    ),
    "Line(params, vector)": (
        lambda: ln.Line(objective().params, torch.randn(67)),
        DirectionError,
        ["shape (67,)", "ln.directions.random"],
    ),
    "Line(params, arrays)": (
        lambda: ln.Line(objective().params, {n: t.numpy() for n, t in directions(1)[0].items()}),
        DirectionError,
        ["ndarray", "torch.as_tensor"],
    ),
    "Line(parameters())": (
        lambda: ln.Line(MODEL.parameters(), directions(1)[0]),
        OptionError,
        ["generator", "state dict"],
    ),
    "a plane of one direction": (
        lambda: ln.Plane(objective().params, directions(1)[0]),
        ChartError,
        ["needs 2 direction", "n=2"],
    ),
    "a plane of the same direction": (
        lambda: ln.Plane(objective().params, *2 * directions(1)),
        DirectionError,
        ["parallel"],
    ),
    "between(a, a)": (
        lambda: ln.Line(MODEL, ln.directions.between(MODEL, copy.deepcopy(MODEL))),
        DirectionError,
        ["have the same weights", "Pass two that differ"],
    ),
    "between two architectures": (
        lambda: ln.directions.between(MODEL, net(4)),
        LossnavError,
        ["2.weight", "(4, 8)", "(3, 8)"],
    ),
    "another architecture": (
        lambda: evaluated(made(net(4), "mse", (X, X)), line(), ln.Grid(alpha=AXIS)),
        StructureMismatchError,
        ["2.weight"],
    ),
    "evaluate a model as a point": (
        lambda: objective().evaluate(OTHER),
        StructureMismatchError,
        ["Sequential", "objective.at("],
    ),
    "evaluate a vector as a point": (
        lambda: objective().evaluate(torch.zeros(67)),
        StructureMismatchError,
        ["shape (67,)"],
    ),
    "Line(direction, params)": (
        lambda: ln.Line(directions(1)[0], objective().params),
        DirectionError,
        ["ln.Line(objective.params, d1)"],
    ),
    "Plane(d1, d2)": (lambda: ln.Plane(*directions()), DirectionError, ["ln.Plane(objective.params, d1, d2)"]),
    "Line(model, file)": (lambda: ln.Line(MODEL, "b.pt"), DirectionError, ["'b.pt'", "ln.directions.between"]),
    "moments(model, optimizer)": (
        lambda: ln.directions.moments(MODEL, torch.optim.Adam(MODEL.parameters())),
        OptionError,
        ["ln.directions.moments(optimizer, model)"],
    ),
    "ensemble of one chart": (
        lambda: ln.ensemble(objective(), line(), ln.Grid(alpha=AXIS)),
        OptionError,
        ["a chart", "lambda seed: ln.Line("],
    ),
    "coordinates that are words": (lambda: line()("a"), ChartError, ["'a'", "[0.0]"]),
    "a point without brackets": (lambda: line()(0.5), ChartError, ["(alpha)"]),
    "explore(objective, grid)": (lambda: ln.explore(objective(), ln.Grid(alpha=AXIS)), OptionError, ["a sampler"]),
    # reports and the command line
    "report(objective)": (lambda: ln.report(objective()), NotASurfaceError, ["an objective", "path"]),
    "report(surface, objective)": (
        lambda: ln.report(surface(), objective()),
        OptionError,
        ["objective=objective"],
    ),
    "report of nothing": (lambda: ln.report("nothing.zarr"), NotASurfaceError, ["no nothing.zarr"]),
    "a SPEC without a name": (lambda: command("evaluate", "mine.py"), SpecError, ["'mine.py'", "file.py:name"]),
    "a SPEC of no file": (lambda: command("evaluate", "mine.py:objective"), SpecError, ["no file mine.py"]),
    "a surface for a SPEC": (lambda: command("evaluate", "run.zarr"), SpecError, ["file.py:name"]),
    "a SPEC for a surface": (lambda: command("report", "mine.py:objective"), NotASurfaceError, ["*.zarr"]),
    "a picture of another ending": (
        lambda: ln.plot.write("contour", surface(), "a.xyz"),
        OptionError,
        ["'.xyz'", ".png"],
    ),
    # numbers and axes
    "n=0": (lambda: directions(0), OptionError, ["n=0", "1 or more"]),
    "n='2'": (lambda: directions("2"), OptionError, ["'2'", "n=2"]),
    "seed=None": (lambda: ln.directions.random(objective(), seed=None), OptionError, ["seed=None", "integer"]),
    "Grid(51)": (lambda: ln.Grid(51), SamplerError, ["names", "ln.Grid(alpha=(-1, 1, 51))"]),
    "Adaptive((-1, 1))": (
        lambda: ln.Adaptive((-1, 1), (-1, 1)),
        SamplerError,
        ["ln.Adaptive(alpha=(-1, 1), beta=(-1, 1))"],
    ),
    "a range reversed": (lambda: ln.Grid(alpha=(1, -1, 5)), SamplerError, ["lower end first", "(-1, 1, 5)"]),
    "an axis of no points": (
        lambda: ln.Grid(alpha=(-1, 1, 0)),
        SamplerError,
        ["at least 2 points, got 0", "2 or more"],
    ),
    "another axis": (lambda: evaluated(objective(), line(), ln.Grid(x=AXIS)), SamplerError, ["(x)", "ln.Grid(alpha="]),
    "a grid of a plane on a line": (
        lambda: evaluated(objective(), line(), ln.Grid(alpha=AXIS, beta=AXIS)),
        SamplerError,
        ["(alpha, beta)", "ln.Grid(alpha=(-1, 1, 51))"],
    ),
    # pictures and files
    "write(kind, path, surface)": (
        lambda: ln.plot.write("contour", "a.png", surface()),
        OptionError,
        ['ln.plot.write("contour", surface, "a.png")'],
    ),
    "write(surface, path)": (lambda: ln.plot.write(surface(), "a.png"), OptionError, ['surface, "a.png")']),
    "write(surface, kind, path)": (
        lambda: ln.plot.write(surface(), "heatmap", "a.svg"),
        OptionError,
        ['ln.plot.write("heatmap", surface, "a.svg")'],
    ),
    "animate(path, surface)": (lambda: ln.plot.animate("a.gif", surface()), OptionError, ["a surface", "path"]),
    "a plane as a line": (lambda: ln.plot.line(surface()), OptionError, ["1 coordinate", "'contour'"]),
    "a picture of a path": (lambda: ln.plot.contour("run.zarr"), NotASurfaceError, ["ln.open('run.zarr')"]),
    "a picture of an array": (
        lambda: ln.plot.contour(surface()["loss"].values),
        NotASurfaceError,
        ["shape (5, 5)", "ln.evaluate"],
    ),
    "a surface as a path": (lambda: ln.plot.contour(surface(), trajectory=surface()), LossnavError, ["ln.project"]),
    "save(path, surface)": (lambda: ln.save("x.zarr", surface()), NotASurfaceError, ["the path 'x.zarr'"]),
    "open(surface)": (lambda: ln.open(surface()), OptionError, ["a surface", "path"]),
    "store=surface": (
        lambda: evaluated(objective(), line(), ln.Grid(alpha=AXIS), store=surface(), progress=False),
        OptionError,
        ["a surface", "path"],
    ),
    "a point set as a dict": (lambda: ln.Points({"alpha": [0, 1]}), SamplerError, ["a dict", "[[0, 0], [0.5, 1]]"]),
    "a trajectory in a surface": (lambda: ln.Trajectory(net(), store=surface()), OptionError, ["a surface", "path"]),
    # the model
    "a class for a model": (lambda: made(nn.Linear), OptionError, ["the class Linear", "instance"]),
    "a state dict for a model": (lambda: made(net().state_dict()), OptionError, ["build the model", "load_state_dict"]),
    "a path for a model": (lambda: made("model.pt"), OptionError, ["'model.pt'", "load_state_dict(torch.load("]),
    "Objective(loss, model)": (
        lambda: ln.Objective(F.cross_entropy, MODEL, (X, Y)),
        OptionError,
        ["ln.Objective(model, loss, data)"],
    ),
    "a model without numbers": (lambda: made(net().to("meta")), ObjectiveError, ["meta device", "load_state_dict"]),
    "a model of int8": (lambda: made(quantised()), OptionError, ["quantised", "before quantisation"]),
    "a model without parameters": (lambda: made(nn.ReLU(), "mse", (X, X)), OptionError, ["no parameters"]),
    "device='cuda:99'": (lambda: made(device="cuda:99"), DeviceError, ["cuda:99", "'cpu'"]),
    "params=parameters()": (
        lambda: made(params=MODEL[2].parameters()),
        OptionError,
        ["names", "['2.weight', '2.bias']"],
    ),
    "params of no name": (lambda: made(params="fc.*"), OptionError, ["'fc.*'", "0.weight"]),
    "outputs are a tuple": (
        lambda: made(Wrapped(lambda h: (h, h.sum()))),
        DataError,
        ["a tuple of", "model(batch[0])[0]"],
    ),
    "outputs are a dict": (
        lambda: made(Wrapped(lambda h: {"out": h})),
        DataError,
        ["{out: (20, 3) float32}", "model(batch[0])['out']"],
    ),
    "outputs are a list, mse": (
        lambda: made(Wrapped(lambda h: [h]), "mse", (X, X[:, :3])),
        DataError,
        ["a list of", "[0]"],
    ),
    "losses by name": (
        lambda: made(Losses(), None),
        LossShapeError,
        ["loss_class, loss_size", "sum(model(*batch).values())"],
    ),
    # the loss
    "a class for a loss": (
        lambda: made(loss=nn.CrossEntropyLoss),
        OptionError,
        ["the class CrossEntropyLoss", "loss=CrossEntropyLoss()"],
    ),
    "a value for a loss": (
        lambda: made(loss=F.cross_entropy(MODEL(X), Y)),
        OptionError,
        ["Tensor", "loss(outputs, targets)"],
    ),
    "another name of a loss": (lambda: made(loss="ce"), OptionError, ["'ce'", "cross_entropy"]),
    "a loss of one argument": (
        lambda: made(loss=lambda outputs: outputs.mean()),
        DataError,
        ["(outputs)", "loss(outputs, targets)"],
    ),
    "a loss that returns nothing": (
        lambda: made(loss=lambda outputs, targets: None),
        LossShapeError,
        ["None", "mean of the batch"],
    ),
    "a model that returns no loss": (lambda: made(loss=None, data=X), LossShapeError, ["(20, 3)"]),
    "a class for a metric": (lambda: made(metrics={"f1": nn.L1Loss}), OptionError, ["the class L1Loss", "instance"]),
    "a metric of one argument": (
        lambda: made(metrics={"size": lambda outputs: outputs.mean()}),
        LossShapeError,
        ["'size'", "metric(outputs, targets)"],
    ),
    "forward= of one value": (
        lambda: made(forward=lambda model, batch: model(batch[0])),
        OptionError,
        ["shape (20, 3)", "(model(batch[0]), batch[1])"],
    ),
    "forward= of one value, two samples": (
        lambda: made(data=(X[:2], Y[:2]), forward=lambda model, batch: model(batch[0])),
        OptionError,
        ["shape (2, 3)"],
    ),
    "forward= of one argument": (
        lambda: made(forward=lambda batch: batch),
        ObjectiveError,
        ["forward=", "the model and a batch"],
    ),
    "a function that is a model": (
        lambda: ln.Objective.from_function(MODEL, dict(MODEL.named_parameters()), (X, Y)),
        OptionError,
        ["ln.Objective(model, loss, data)"],
    ),
    "a function of a generator": (
        lambda: ln.Objective.from_function(lambda p: p, MODEL.parameters()),
        OptionError,
        ["dict(model.named_parameters())"],
    ),
    "a function of two without data": (
        lambda: ln.Objective.from_function(lambda p, b: p["x"].sum(), {"x": torch.ones(2)}),
        OptionError,
        ["(p, b)", "data="],
    ),
    "seed=None of an objective": (lambda: made(seed=None), OptionError, ["seed=None", "whole number"]),
    "classes for scores": (lambda: made(Wrapped(lambda h: h.argmax(1))), DataError, ["int64", "without argmax"]),
    "classes along the last axis": (
        lambda: made(nn.Linear(4, 3), data=(X.reshape(4, 5, 4), Y.reshape(4, 5))),
        DataError,
        ["(4, 5, 3)", "axis 1", "movedim(-1, 1)"],
    ),
    "an argument that is missing": (
        lambda: made(Masked()),
        DataError,
        ["takes x, mask", "data=(x, mask, y)"],
    ),
    # the data
    "no targets": (lambda: made(data=X), DataError, ["no targets", "(x, y)"]),
    "targets None": (lambda: made(data=(X, None)), DataError, ["(x, y)"]),
    "a dataset without targets": (lambda: made(data=Inputs()), DataError, ["no targets"]),
    "[x, y] for (x, y)": (lambda: made(data=[X, Y]), DataError, ["tuple (x, y)", "list"]),
    "a list of samples": (
        lambda: made(data=[(X[i], Y[i]) for i in range(20)]),
        DataError,
        ["one sample", "DataLoader(samples, batch_size=32)"],
    ),
    "a list of samples of numbers": (
        lambda: made(data=[(X[i], int(Y[i])) for i in range(20)]),
        DataError,
        ["one sample", "DataLoader("],
    ),
    "a list of samples that are dicts": (
        lambda: made(Pixels(), data=[{"pixel_values": X[i], "labels": Y[i]} for i in range(20)]),
        DataError,
        ["one sample"],
    ),
    "lists of numbers": (lambda: made(data=(X.tolist(), Y.tolist())), DataError, ["torch.tensor(x), torch.tensor(y)"]),
    "a dict of other names": (
        lambda: made(Pixels(), data={"image": X, "labels": Y}),
        DataError,
        ["given image", "takes pixel_values", "model(batch['image']), batch['labels']"],
    ),
    "a dict for a Sequential": (
        lambda: made(data={"x": X, "labels": Y}),
        DataError,
        ["model(batch['x']), batch['labels']"],
    ),
    "a dict without targets": (
        lambda: made(Pixels(), data={"pixel_values": X, "answer": Y}),
        DataError,
        ["answer", "labels"],
    ),
    "graphs": (lambda: made(OverGraph(), data=GRAPHS), DataError, ["a Graph", "edge_index", "(model(batch), batch.y)"]),
    "(train, test)": (lambda: made(data=(Samples(), Samples())), DataError, ["a tuple of 2", "data=test_data"]),
    "data_budget='1 GB'": (lambda: made(data_budget="1 GB"), DataError, ["'1 GB'", "bytes"]),
    "a class for a data set": (lambda: made(data=Samples), DataError, ["the class Samples", "instance"]),
    "a path for data": (lambda: made(data="data/"), DataError, ["'data/'"]),
    "a generator that is used up": (lambda: made(data=used_up()), DataError, ["generator", "list"]),
    "an array of words": (
        lambda: made(data=(np.array([["a"]] * 20, dtype=object), Y.numpy())),
        DataError,
        ["object", "numbers"],
    ),
    "lengths that differ": (lambda: made(data=(X, Y[:5])), DataError, ["(20, 4), (5,)"]),
    "no sample": (lambda: made(data=(X[:0], Y[:0])), DataError, ["empty"]),
    "batch_size='all'": (lambda: made(batch_size="all"), DataError, ["'all'", "whole number"]),
    "images of bytes": (lambda: made(data=((X * 10).to(torch.uint8), Y)), DataError, ["uint8", "float32", "/ 255"]),
    "double inputs": (lambda: made(data=(X.double(), Y)), DataError, ["float64", "x.to(torch.float32)"]),
    "inputs of another size": (
        lambda: made(data=(X[:, :3], Y)),
        ObjectiveError,
        ["The model Sequential", "(20, 3) float32", "mat1 and mat2"],
    ),
    "float labels": (lambda: made(data=(X, Y.float())), DataError, ["float32", "y.long()"]),
    "short labels": (lambda: made(data=(X, Y.int())), DataError, ["int32", "y.long()"]),
    "labels in a column": (lambda: made(data=(X, Y[:, None])), DataError, ["(20, 1)", "y.squeeze(-1)"]),
    "one-hot labels": (lambda: made(data=(X, F.one_hot(Y, 3))), DataError, ["y.argmax(1)", "y.float()"]),
    "labels from 1": (lambda: made(data=(X, Y + 1)), DataError, ["1 to 3", "3 outputs", "y - 1"]),
    "labels of -1": (lambda: made(data=(X, Y - 1)), DataError, ["-1 to 1", "ignore_index=-1"]),
    "labels from 1 in a later batch": (
        lambda: made(data=(X, torch.where(torch.arange(20) > 15, 7, Y)), batch_size=10).evaluate(net().state_dict()),
        DataError,
        ["to 7", "3 outputs"],
    ),
    "mse of a column and a row": (
        lambda: made(net(1), "mse", (X, X[:, 0])),
        DataError,
        ["(20, 20)", "y.unsqueeze(-1)"],
    ),
    "l1 of a row and a column": (
        lambda: made(Wrapped(lambda h: h[:, 0]), nn.L1Loss(), (X, X[:, :1])),
        DataError,
        ["(20, 20)", "y.squeeze(-1)"],
    ),
    "whole numbers for binary cross-entropy": (
        lambda: made(net(1), nn.BCEWithLogitsLoss(), (X, (Y[:, None] > 0).long())),
        DataError,
        ["int64", "y.float()"],
    ),
    "a row for binary cross-entropy": (
        lambda: made(net(1), nn.BCEWithLogitsLoss(), (X, (Y > 0).float())),
        DataError,
        ["(20, 1)", "y.unsqueeze(-1)"],
    ),
    "logits for probabilities": (
        lambda: made(net(1), nn.BCELoss(), (X, (Y[:, None] > 0).float())),
        DataError,
        ["0 to 1", "binary_cross_entropy_with_logits"],
    ),
    "class weights elsewhere": (
        lambda: made(loss=elsewhere),
        DataError,
        ["loss elsewhere", "device than the data (such as", "loss.to(device)"],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_named_and_the_way_on_is_said(typed):
    call, kind, words = MISTAKES[typed]
    with pytest.raises(kind) as raised:
        call()
    message = str(raised.value)
    assert isinstance(raised.value, LossnavError)
    for word in words:
        assert word in message, message
    assert message.rstrip().endswith((".", ")", ":", "…"))
    assert len(message.split()) < 90, "one sentence on what is wrong, one on what to type"


def test_there_are_thirty_and_more():
    assert len(MISTAKES) >= 30


WORKS = {
    "between(model, model)": lambda: ln.evaluate(
        objective(), ln.Line(MODEL, ln.directions.between(MODEL, OTHER)), ln.Grid(alpha=(0, 1, 2)), progress=False
    )["loss"][1],
    "Plane(model, *directions)": lambda: ln.evaluate(
        objective(), ln.Plane(OTHER, *directions()), ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), progress=False
    )["loss"][1, 1],
    "at(model)": lambda: objective().at(OTHER).evaluate(objective().at(OTHER).params)["loss"],
    "metrics=None": lambda: made(OTHER, metrics=None).evaluate(dict(OTHER.named_parameters()))["loss"],
    "a shuffled loader": lambda: made(OTHER, data=DataLoader(Samples(), batch_size=6, shuffle=True)).evaluate(
        dict(OTHER.named_parameters())
    )["loss"],
    "a used loader": lambda: made(OTHER, data=iter(DataLoader(Samples(), batch_size=6))).evaluate(
        dict(OTHER.named_parameters())
    )["loss"],
    "arrays": lambda: made(OTHER, data=(X.double().numpy(), Y.numpy())).evaluate(dict(OTHER.named_parameters()))[
        "loss"
    ],
    "one-hot probabilities": lambda: made(OTHER, data=(X, F.one_hot(Y, 3).float())).evaluate(
        dict(OTHER.named_parameters())
    )["loss"],
    "graphs, by the line that is given": lambda: _of_graphs(),
    "tuples, by the line that is given": lambda: _of_tuples(),
    "dicts of samples, by the line that is given": lambda: _of_dicts(),
    "samples, by the line that is given": lambda: made(
        OTHER, data=DataLoader([(X[i], int(Y[i])) for i in range(20)], batch_size=32)
    ).evaluate(dict(OTHER.named_parameters()))["loss"],
}


def _inner(model: nn.Module) -> nn.Module:
    model.net.load_state_dict(OTHER.state_dict())
    return model


def _of_graphs() -> float:
    model = _inner(OverGraph())
    found = made(model, data=GRAPHS, forward=lambda model, batch: (model(batch), batch.y))
    return found.evaluate(found.params)["loss"]


def _of_tuples() -> float:
    model = _inner(Wrapped(lambda h: (h, h.sum())))
    found = made(model, forward=lambda model, batch: (model(batch[0])[0], batch[-1]))
    return found.evaluate(found.params)["loss"]


def _of_dicts() -> float:
    model = _inner(Pixels())
    found = made(model, data=ByName(), forward=lambda model, batch: (model(batch["image"]), batch["labels"]))
    return found.evaluate(found.params)["loss"]


@pytest.mark.parametrize("typed", WORKS)
def test_what_can_be_understood_works(typed):
    wanted = float(F.cross_entropy(OTHER(X), Y).detach())
    assert float(WORKS[typed]()) == pytest.approx(wanted, rel=1e-6)


def test_losses_by_name_are_added_by_the_line_that_is_given():
    model = Losses()
    found = made(model, None, forward=lambda model, batch: (sum(model(*batch).values()), None))
    wanted = sum(float(part) for part in model(X, Y).values())
    assert found.evaluate(found.params)["loss"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("words", ["head.weight", "head.*", ["head.weight"], "embedding.weight"])
def test_tied_weights_are_known_by_each_of_their_names(words):
    x = torch.arange(5)
    found = made(Tied(), data=(x, x.flip(0)), params=words)
    assert list(found.params) == ["embedding.weight"]
    moved = Tied()
    with torch.no_grad():
        moved.head.weight.mul_(2)
    wanted = float(F.cross_entropy(moved(x), x.flip(0)))
    point = {"embedding.weight": moved.embedding.weight.detach()}
    assert found.evaluate(point)["loss"] == pytest.approx(wanted, rel=1e-6)


def test_whole_numbers_among_the_parameters_are_said_to_be_held():
    model = net()
    model.scale = nn.Parameter(torch.ones(7, dtype=torch.int8), requires_grad=False)
    with pytest.warns(ln.errors.LossnavWarning, match="7 numbers in 1 tensors of dtype torch.int8"):
        found = made(model)
    assert "scale" not in found.params


def test_the_users_own_error_is_kept_behind_ours():
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.nett(x)

    with pytest.raises(ObjectiveError, match=r"AttributeError.*nett.*test_diagnosis.py:\d+, in forward") as raised:
        made(Broken())
    assert isinstance(raised.value.__cause__, AttributeError)


def test_what_is_not_understood_is_left_as_it_is():
    error = RuntimeError("of something else")
    assert explained(error) is error


def test_a_message_of_a_caller_with_one_sample_is_no_false_alarm():
    """(1, 1) and (1,) are compared as one number either way."""
    model = net(1)
    found = made(model, "mse", (X[:1], X[:1, 0]))
    wanted = float((model(X[:1])[0, 0] - X[0, 0]) ** 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found.evaluate(found.params)["loss"] == pytest.approx(wanted, rel=1e-6)
