"""Networks and data small enough to check by hand, and where real data lies if it is there."""

from __future__ import annotations

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell: else no law of Ctrl-C holds
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # several at a time: a thread each, for what they start too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

import lossnav as ln
from lossnav.surface import assemble

LONG_TESTS = Path(__file__).parent / "long_tests.txt"  # whose first case took more than 0.2 s


def pytest_addoption(parser):
    parser.addoption(
        "--daily",
        action="store_true",
        help="one case of each law that takes less than a fifth of a second, no browser and no cluster",
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--daily"):
        return
    seen, kept = set(LONG_TESTS.read_text().split("\n")), []
    for item in items:
        law = item.nodeid.partition("[")[0]
        if law not in seen and not any(item.get_closest_marker(name) for name in ("browser", "cluster", "slow")):
            kept.append(item)
        seen.add(law)
    daily = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in daily])
    items[:] = kept


settings.register_profile("no deadline", deadline=None)  # the first call of a test may import much
settings.load_profile("no deadline")

ROOT = Path(__file__).parent.parent


def shared_data(name: str) -> Path:
    """A folder or file of real data, or a skip that says why."""
    for base in (os.environ.get("LOSSNAV_DATA"), ROOT.parent / "shared" / "data"):
        if base and (Path(base) / name).exists():
            return Path(base) / name
    pytest.skip(f"no {name} in LOSSNAV_DATA or ../shared/data")


def made(values, dims=("alpha", "beta"), se=None, status=None, ends=(-1, 2), **attrs):
    """A surface of such losses on a grid from -1 to 2, or other ends, along each axis."""
    values = np.asarray(values, dtype=float)
    axes = {dim: np.linspace(*ends, n) for dim, n in zip(dims, values.shape, strict=True)}
    points = np.stack([m.reshape(-1) for m in np.meshgrid(*axes.values(), indexing="ij")], 1)
    flat = values.reshape(-1)
    rows = [{"loss": v, **({} if se is None else {"loss_se": se}), "accuracy": 0.5} for v in flat]
    codes = [1 if np.isfinite(v) else 2 for v in flat] if status is None else np.asarray(status).reshape(-1)
    chart = {"kind": "Plane", "dims": list(dims), "directions": [{"kind": "random", "normalize": "filter"}] * len(dims)}
    objective = {"model": "Net", "loss": "cross_entropy", "samples": 100}
    return assemble.assemble(dims, axes, points, rows, codes, {"chart": chart, "objective": objective, **attrs})


class Everything(nn.Module):
    """Biases, BatchNorm, LayerNorm, tied weights, one-element filters, a transposed convolution, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 1, groups=4)  # one element a filter
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.first = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)
        self.second = nn.Linear(5, 5)
        self.tied = nn.Linear(5, 5)
        self.tied.weight = self.second.weight
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.depthwise(torch.relu(self.bn(self.conv(x)))))
        x = self.norm(self.first(x.mean((2, 3))))
        return self.gain * self.tied(torch.tanh(self.second(x)))


@pytest.fixture
def everything() -> nn.Module:
    torch.manual_seed(0)
    model = Everything()
    model(torch.randn(32, 1, 8, 8))  # running statistics that are not the initial ones
    return model.eval()


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(23, 1, 8, 8, generator=generator), torch.randint(0, 5, (23,), generator=generator)


@pytest.fixture
def objective(everything: nn.Module, images: tuple[Tensor, Tensor]) -> ln.Objective:
    return ln.Objective(everything, "cross_entropy", images, metrics=["accuracy"], batch_size=10)


@pytest.fixture
def bowl() -> ln.Objective:
    """loss = 0.1 + the sum of squares around (1, 1, 1): nothing is quicker."""
    return ln.Objective.from_function(lambda p: 0.1 + ((p["x"] - 1) ** 2).sum(), {"x": torch.ones(1, 3)})


@pytest.fixture
def plane(objective: ln.Objective) -> ln.Plane:
    return ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))


@pytest.fixture(scope="session")
def digits_objective() -> ln.Objective:
    """The notebook's network after a short training on the embedded digits."""
    recipe = ln.zoo.recipe("notebook-digits")
    data, model = recipe.load_data(), recipe.model(seed=3)
    recipe.train(model, data, passes=4, progress=False)
    return recipe.objective(model, data)


@pytest.fixture
def surface(objective: ln.Objective, plane: ln.Plane):
    return ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 5), beta=(-0.5, 1, 4)))
