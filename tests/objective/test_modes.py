"""mode="train": the loss that training lowers, by one draw of its noise, the same at every point."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import lossnav as ln
from lossnav.errors import OptionError, PlanMismatchError

_G = torch.Generator().manual_seed(0)
X = torch.randn(22, 6, generator=_G)
Y = torch.randint(0, 3, (22,), generator=_G)
SEED, SIZE = 4, 8


class Detector(nn.Module):
    """As torchvision's: losses in train mode, predictions in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop = nn.Linear(6, 8), nn.Dropout(0.3)
        self.classes, self.boxes = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor, y: Tensor | None = None):
        h = self.drop(torch.tanh(self.body(x)))
        if not self.training:
            return self.classes(h).argmax(1)
        return {"loss_class": F.cross_entropy(self.classes(h), y), "loss_box": (self.boxes(h)[:, 0] - y).abs().mean()}


class HalfFrozen(nn.Module):
    """Keeps the BatchNorm of its body in eval mode, as those who train on small batches do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def train(self, mode: bool = True):
        super().train(mode)
        self.body.eval()
        return self


class Merging(nn.Module):
    """LoRA of the older kind: merged in eval mode, taken apart in train mode, where its input is dropped out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, generator=torch.Generator().manual_seed(1)))
        self.a = nn.Parameter(torch.randn(2, 6, generator=torch.Generator().manual_seed(2)))
        self.b = nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(3)))
        self.drop, self.merged = nn.Dropout(0.5), False

    def train(self, mode: bool = True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a).data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        plain = F.linear(x, self.weight)
        return plain if self.merged else plain + F.linear(F.linear(self.drop(x), self.a), self.b)


def _net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for layer in nn.Sequential(*layers).modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return nn.Sequential(*layers)


MODELS = {
    "dropout": lambda: _net(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)),
    "batch norm": lambda: _net(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)),
    "both": lambda: _net(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)),
    "alpha dropout": lambda: _net(nn.Linear(6, 8), nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(8, 3)),
    "rrelu": lambda: _net(nn.Linear(6, 8), nn.RReLU(), nn.Linear(8, 3)),
    "spectral norm": lambda: _net(spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 3)),
    "a body in eval mode": HalfFrozen,
    "merged in eval mode": Merging,
    "a transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)),
        nn.TransformerEncoderLayer(3, 1, 8, dropout=0.2, batch_first=True),
        nn.Flatten(),
        nn.Linear(6, 3),
    ),
}


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[kind]()


def by_hand(model: nn.Module, point: dict[str, Tensor] | None = None, loss=F.cross_entropy, seed: int = SEED) -> float:
    """Plain torch: a copy in train mode, the weights of a point, the same noise, batch by batch."""
    model = copy.deepcopy(model)
    if point is not None:
        named = dict(model.named_parameters())
        for name, tensor in point.items():
            named[name].data.copy_(tensor)
    model.train()
    total = 0.0
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for x, y in zip(X.split(SIZE), Y.split(SIZE), strict=True):
            total += len(x) * float(loss(model(x), y))
    return total / len(X)


def made(model: nn.Module, **options) -> ln.Objective:
    options = {"seed": SEED, "batch_size": SIZE, "mode": "train"} | options
    return ln.Objective(model, "cross_entropy", (X, Y), **options)


@pytest.mark.parametrize("started", ["train", "eval"])
@pytest.mark.parametrize("kind", MODELS)
def test_it_is_the_loss_of_the_model_in_train_mode(kind, started):
    model = build(kind).train(started == "train")
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = made(model)
    line = ln.Line(objective.params, ln.directions.random(objective, n=1, exclude=(), seed=1)[0])
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), progress=False)
    for alpha, found in zip(surface["alpha"].values, surface["loss"].values, strict=True):
        assert found == pytest.approx(by_hand(model, line([alpha])), rel=2e-6)
    again = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), progress=False)
    assert (again["loss"].values == surface["loss"].values).all()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def test_the_noise_is_the_same_at_every_point():
    """With one mask the outputs are linear in the last layer, and so is their mean: no second differences."""
    model = _net(nn.Dropout(0.5), nn.Linear(6, 3, bias=False))
    objective = ln.Objective(model, lambda outputs, targets: outputs.mean(1), (X, Y), reduction="none", mode="train")
    line = ln.Line(objective.params, ln.directions.random(objective, n=1)[0])
    loss = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 21)), progress=False)["loss"].values
    assert abs(loss[2:] - 2 * loss[1:-1] + loss[:-2]).max() < 1e-6 * abs(loss).max()
    other = ln.Objective(model, lambda o, t: o.mean(1), (X, Y), reduction="none", mode="train", seed=9)
    assert other.evaluate(other.params)["loss"] != pytest.approx(objective.evaluate(objective.params)["loss"], rel=1e-3)


def test_a_loss_that_exists_only_there():
    model = Detector().eval()

    def losses(model, batch):
        return sum(model(*batch).values()), batch[1]

    objective = ln.Objective(model, None, (X, Y), forward=losses, mode="train", seed=SEED, batch_size=SIZE)
    twin = copy.deepcopy(model).train()
    wanted = 0.0
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        for x, y in zip(X.split(SIZE), Y.split(SIZE), strict=True):
            wanted += len(x) * float(sum(twin(x, y).values())) / len(X)
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(ln.errors.LossnavError):
        ln.Objective(model, None, (X, Y), forward=losses)


def test_a_loss_with_layers_of_its_own_is_in_train_mode_too():
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self.drop(outputs), targets)

    loss, model = Dropping().eval(), build("dropout")
    objective = ln.Objective(model, loss, (X, Y), mode="train", seed=SEED, batch_size=SIZE)
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(
        by_hand(model, loss=copy.deepcopy(loss).train()), rel=1e-6
    )
    assert not loss.training


def test_batch_norm_beside_it():
    model = build("both")
    frozen = made(model, bn="frozen")
    twin = copy.deepcopy(model)
    twin.train = lambda mode=True: (nn.Module.train(twin, mode), twin[1].eval())[0]  # type: ignore[method-assign]
    total = 0.0
    with torch.random.fork_rng(), torch.no_grad():
        twin.train()
        torch.manual_seed(SEED)
        for x, y in zip(X.split(SIZE), Y.split(SIZE), strict=True):
            total += len(x) * float(F.cross_entropy(twin(x), y)) / len(X)
    assert frozen.evaluate(frozen.params)["loss"] == pytest.approx(total, rel=1e-6)
    explicit = made(model, bn="batch")
    assert explicit.evaluate(explicit.params) == made(model).evaluate(explicit.params)
    assert (made(model).bn, made(model.eval(), mode="eval").bn) == ("batch", "frozen")
    with pytest.raises(OptionError, match=r"bn='recompute'.*mode='train'.*bn='frozen'"):
        made(model, bn="recompute")
    with pytest.raises(OptionError, match="mode='training'.*'eval' or 'train'"):
        made(model, mode="training")


@pytest.mark.parametrize("kind", ["dropout", "both", "a body in eval mode", "merged in eval mode"])
def test_derivatives_are_of_the_same_noise(kind):
    model = build(kind)
    objective = made(model)
    twin = copy.deepcopy(model).train()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        parts = [len(x) * F.cross_entropy(twin(x), y) for x, y in zip(X.split(SIZE), Y.split(SIZE), strict=True)]
        (sum(parts) / len(X)).backward()
    for name, found in ln.curvature.gradient(objective).items():
        assert torch.allclose(found.float(), twin.get_parameter(name).grad, atol=2e-6)
    names = list(objective.params)
    flat = torch.cat([objective.params[name].reshape(-1) for name in names])

    def loss(vector: Tensor) -> Tensor:
        parts, point = torch.split(vector, [objective.params[name].numel() for name in names]), {}
        for name, part in zip(names, parts, strict=True):
            point[name] = part.view(objective.params[name].shape)
        fresh = copy.deepcopy(model).train()
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            total = torch.zeros(())
            for x, y in zip(X.split(SIZE), Y.split(SIZE), strict=True):
                total = total + len(x) * F.cross_entropy(torch.func.functional_call(fresh, point, (x,)), y)
        return total / len(X)

    wanted = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat).double())[-1]
    pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), k=1, which="largest", progress=False)
    assert float(pairs.values[0]) == pytest.approx(float(wanted), rel=2e-3)


def test_it_is_kept_by_what_is_made_of_it():
    model = build("both")
    objective = made(model)
    wanted = objective.evaluate(objective.params)
    assert objective.apart().evaluate(objective.params) == wanted
    moved = {name: tensor * 1.1 for name, tensor in objective.params.items()}
    assert objective.around(moved).evaluate(moved)["loss"] == pytest.approx(by_hand(model, moved), rel=1e-6)
    assert objective.at(model).evaluate(objective.params) == wanted
    assert objective.double().evaluate(objective.params)["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert ln.sharpness(objective, "sam", progress=False).value > 0


@pytest.mark.parametrize("plan", ["auto", "tuned"])
def test_it_is_evaluated_plainly_without_a_word(plan, monkeypatch):
    from lossnav.acceleration import planner

    for name in ("_WORTH_PLANNING", "_WORTH_RULES", "_FEWEST_POINTS"):
        monkeypatch.setattr(planner, name, 0)
    objective = made(build("both"))
    line = ln.Line(objective.params, ln.directions.random(objective, n=1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 12)), engine=ln.Local(plan=plan), progress=False)
    assert surface.attrs["engine"]["plan"] == "plain"
    assert any("train mode" in event for event in surface.attrs["engine"]["plan_events"])


def test_it_is_recorded_and_another_run_than_that_in_eval_mode(tmp_path):
    model = build("both").eval()
    trained, plain = made(model), made(model, mode="eval")
    assert trained.fingerprint != plain.fingerprint
    assert trained.describe()["mode"] == "train" and "mode" not in plain.describe()
    line = ln.Line(plain.params, ln.directions.random(plain, n=1)[0])
    grid = ln.Grid(alpha=(-1, 1, 3))
    surface = ln.evaluate(trained, line, grid, store=tmp_path / "run.zarr", progress=False)
    report = ln.report(surface)
    assert report["train mode"].level == "note" and "seed 4" in report["train mode"].said
    assert report["batch norm"].level == "note"
    without = ln.report(ln.evaluate(plain, line, grid, progress=False))
    assert "train mode" not in [finding.check for finding in without.lines]
    with pytest.raises(PlanMismatchError, match="mode"):
        ln.evaluate(plain, line, grid, store=tmp_path / "run.zarr", progress=False)


SPEC = """
import torch
from torch import nn
import lossnav as ln

X, Y = torch.randn(22, 6, generator=torch.Generator().manual_seed(0)), torch.arange(22) % 3

def objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).eval()
    return ln.Objective(model, "cross_entropy", (X, Y), batch_size=8, seed=4)

ready = objective()
"""


def test_the_command_line_says_it(tmp_path):
    from typer.testing import CliRunner

    from lossnav.cli import app

    (tmp_path / "mine.py").write_text(SPEC)
    spec, runner = f"{tmp_path / 'mine.py'}:objective", CliRunner()
    grid = ["--chart", "line", "--grid", "3"]
    done = runner.invoke(app, ["evaluate", spec, "-o", str(tmp_path / "a.zarr"), "--mode", "train", *grid])
    assert done.exit_code == 0, done.output
    surface = ln.open(tmp_path / "a.zarr")
    said = surface.attrs["objective"]
    assert (said["mode"], said["bn"], said["origin"]["mode"]) == ("train", "batch", "train")
    from lossnav.specs.objective_of import load_objective, rebuild

    objective = load_objective(spec, mode="train")
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model.load_state_dict(objective.params, strict=False)
    total, x, y = 0.0, X, torch.arange(22) % 3
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        for part, targets in zip(x.split(8), y.split(8), strict=True):
            total += len(part) * float(F.cross_entropy(model.train()(part), targets)) / 22
    assert float(surface["loss"].sel(alpha=0)) == pytest.approx(total, rel=1e-6)
    assert rebuild(said["origin"], None, None, None).fingerprint == objective.fingerprint == said["fingerprint"]
    with pytest.raises(ln.errors.SpecError, match="in eval mode, but train mode was requested"):
        _ready(tmp_path)


def _ready(folder) -> None:
    """An objective that the code makes as it is imported, by its own words in eval mode."""
    from lossnav.specs.objective_of import load_objective

    (folder / "other.py").write_text(SPEC.replace("seed=4", "seed=4, mode='eval'"))
    load_objective(f"{folder / 'other.py'}:ready", mode="train")
