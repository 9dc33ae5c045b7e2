"""No call changes what the next call sees: buffers, losses and metrics that a pass writes to."""

import contextlib
import copy
import functools
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors

pytestmark = pytest.mark.filterwarnings(  # a state that moves with every batch does depend on them
    "ignore::lossnav.errors.BatchDependenceWarning"
)

torch.manual_seed(0)
X, Y = torch.randn(24, 6), torch.randint(0, 3, (24,))
SIZE = 8


def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def moved(params):
    generator = torch.Generator().manual_seed(1)
    return {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in params.items()}


def plain(make, weights, loss=F.cross_entropy, measure=None):
    """What a model made anew gives, batch by batch in order, in eval mode: the mean over all samples."""
    model = make()
    model.load_state_dict(weights, strict=False)
    model.eval()
    loss = copy.deepcopy(loss)
    values = []
    with torch.no_grad():
        for x, y in zip(X.split(SIZE), Y.split(SIZE), strict=True):
            values.append(float((measure or loss)(model(x), y)))
    return float(np.mean(values))


def snapshot(value):
    if isinstance(value, nn.Module):
        plain = {k: v for k, v in vars(value).items() if isinstance(v, int | float | list | torch.Tensor)}
        return copy.deepcopy([value.state_dict(), plain, [m.training for m in value.modules()]])
    return copy.deepcopy(dict(vars(value)))


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def derived(objective, loss):
    """The gradient, and products with it in sight, which may be refused."""
    hessian = ln.curvature.Hessian(objective)
    made = hessian.derive()
    assert made.loss == pytest.approx(loss, rel=1e-5)
    vector = torch.ones(hessian.size, dtype=torch.float64)
    with contextlib.suppress(errors.ObjectiveError):  # of what is cut off from the graph they are refused
        products = [hessian.derive([vector]).products[0] for _ in range(3)]
        assert all(torch.allclose(products[0], product) for product in products)
    return made.gradient


def holds(make, loss=F.cross_entropy, **options):
    """Every path, in any order, gives what plain torch gives; the model is as before."""
    model = make().eval()
    before = snapshot(model)
    objective = ln.Objective(model, loss, (X, Y), batch_size=SIZE, **options)
    points = [objective.params, moved(objective.params)]
    truths = [plain(make, point, loss) for point in points]
    assert [objective.evaluate(points[i])["loss"] for i in (0, 1, 1, 0)] == pytest.approx(
        [truths[i] for i in (0, 1, 1, 0)], rel=1e-5
    )
    line = ln.Line(points[0], {name: points[1][name] - points[0][name] for name in points[0]})
    for engine in (ln.Local(), ln.Local(plan="plain"), ln.Local(plan="tuned")):
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 9)), engine=engine, progress=False)
        assert surface["loss"].values[[0, -1]] == pytest.approx(truths, rel=1e-5)
    with warnings.catch_warnings():  # a queue that is cut off from the graph: its gradient is torch's, not the loss's
        warnings.simplefilter("ignore", errors.LossnavWarning)
        first, *again = (derived(objective, truths[0]) for _ in range(3))
        with contextlib.suppress(errors.ObjectiveError):
            ln.report(surface, objective=objective, chart=line, limit=4, probes=2, progress=False)
    assert all(torch.equal(first, gradient) for gradient in again)
    for other in (objective.apart(), objective.without_metrics(), objective):
        assert other.evaluate(points[1])["loss"] == pytest.approx(truths[1], rel=1e-5)
    assert equal(snapshot(model), before)
    return objective


# ---------------------------------------------------------------------- buffers


class Queue(nn.Module):
    """As MoCo's: the features of a batch are put into a queue, which the next batches are compared with."""

    def __init__(self, replaces=False):
        super().__init__()
        self.body, self.replaces = body(), replaces
        self.register_buffer("queue", torch.randn(12, 3, generator=torch.Generator().manual_seed(4)))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        features = self.body(x)
        made = features + 0.3 * (features @ self.queue.clone().detach().T).softmax(1) @ self.queue.clone().detach()
        with torch.no_grad():
            if self.replaces:
                self.queue = torch.cat([features.detach(), self.queue])[:12]
            else:
                rows = (self.place + torch.arange(len(x))) % 12
                self.queue[rows] = features.detach()
                self.place.data.add_(len(x))
        return made


class Normaliser(nn.Module):
    """Inputs are normalised by a moving average that is updated in eval mode too."""

    def __init__(self):
        super().__init__()
        self.body = body()
        self.register_buffer("mean", torch.zeros(6), persistent=False)

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.body(x - 3 * self.mean.clone())


class PowerIteration(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("u", F.normalize(torch.randn(6), dim=0))

    def forward(self, x):
        with torch.no_grad():
            self.u = F.normalize(self.layer.weight @ (self.layer.weight.T @ self.u), dim=0)
        sigma = (self.layer.weight.T @ self.u).norm()
        return self.head(F.linear(x, self.layer.weight / sigma))


class Counter(nn.Module):
    """A counter as a buffer, as a plain number, or as a tensor that is no buffer."""

    def __init__(self, kind="buffer"):
        super().__init__()
        self.body, self.kind = body(), kind
        if kind == "buffer":
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        else:
            self.steps = 0 if kind == "number" else [0] if kind == "list" else torch.zeros(())

    def forward(self, x):
        if self.kind == "list":
            self.steps.append(1)
            return self.body(x) / len(self.steps)
        self.steps += 1
        return self.body(x) * (1 + 0.1 * float(self.steps))


WRITERS = {
    "queue": Queue,
    "queue replaced": lambda: Queue(True),
    "normaliser": Normaliser,
    "power iteration": PowerIteration,
    "counter": Counter,
    "number": lambda: Counter("number"),
    "list": lambda: Counter("list"),
    "tensor": lambda: Counter("tensor"),
}


@pytest.mark.parametrize("make", WRITERS.values(), ids=WRITERS)
def test_what_a_forward_writes_stays_in_its_pass(make):
    objective = holds(make)
    assert objective._unplanned.startswith("the model ")
    surface = ln.evaluate(objective, ln.Line(objective.params, moved(objective.params)), ln.Grid(alpha=(0, 1, 3)))
    assert surface.attrs["engine"]["plan"] == "plain"


def test_a_queue_that_is_only_written_later():
    """Not in the first batch, where it would be seen: the plans see it and give way."""

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x):
            made = self.body(x) + self.seen
            if x[0, 0] == X[2 * SIZE, 0]:
                self.seen.add_(made.detach().mean(0))
            return made

    holds(Late)


# ---------------------------------------------------------------------- losses


class NormLoss(nn.Module):
    """With a BatchNorm inside, in train mode as every fresh module."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False)

    def forward(self, outputs, targets):
        return F.cross_entropy(self.norm(outputs), targets)


class MovingLoss(nn.Module):
    """Weighs by a moving average, in every mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.ones(()))
        self.calls = 0

    def forward(self, outputs, targets):
        loss = F.cross_entropy(outputs, targets)
        self.level = 0.9 * self.level + 0.1 * loss.detach()
        self.calls += 1
        return loss / self.level * (1 + 0.01 * self.calls)


class CenterLoss(nn.Module):
    """Centres of classes move towards the features, and could be trained."""

    def __init__(self, trainable=False):
        super().__init__()
        centers = torch.randn(3, 3, generator=torch.Generator().manual_seed(2))
        if trainable:
            self.centers = nn.Parameter(centers)
        else:
            self.register_buffer("centers", centers)

    def forward(self, outputs, targets):
        loss = F.cross_entropy(outputs, targets) + (outputs - self.centers[targets]).pow(2).mean()
        self.centers.data[targets] += 0.1 * (outputs.detach() - self.centers.data[targets])
        return loss


class Annealed:
    """No module: a loss object with numbers of its own."""

    def __init__(self):
        self.calls, self.history = 0, []

    def __call__(self, outputs, targets):
        self.calls += 1
        self.history.append(outputs.shape)
        return F.cross_entropy(outputs / (1 + 0.1 * len(self.history)), targets) * self.calls


def enclosed(module, how):
    if how == "module":
        return module
    if how == "lambda":
        return lambda outputs, targets: module(outputs, targets)
    if how == "partial":
        return functools.partial(lambda inner, outputs, targets: inner(outputs, targets), module)
    return module.__call__ if isinstance(module, Annealed) else module.forward


@pytest.mark.parametrize("how", ["module", "lambda", "partial", "method"])
@pytest.mark.parametrize("make", [NormLoss, MovingLoss, CenterLoss, Annealed])
def test_a_loss_is_as_before_and_starts_as_it_was_given(make, how):
    module = make()
    before = snapshot(module)
    objective = ln.Objective(body().eval(), enclosed(module, how), (X, Y), batch_size=SIZE)
    theirs = copy.deepcopy(module)
    if isinstance(theirs, nn.Module):
        theirs.eval()
    for point in (objective.params, moved(objective.params), objective.params):
        assert objective.evaluate(point)["loss"] == pytest.approx(plain(body, point, theirs), rel=1e-5)
    line = ln.Line(objective.params, moved(objective.params))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 5)), progress=False)
    assert surface["loss"].values[0] == pytest.approx(plain(body, objective.params, theirs), rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.LossnavWarning)  # what it detaches is missing in its gradient, rightly
        first, again = (ln.curvature.Hessian(objective).derive() for _ in range(2))
    assert first.loss == again.loss == pytest.approx(plain(body, objective.params, theirs), rel=1e-5)
    assert objective.apart().evaluate(objective.params) == objective.evaluate(objective.params)
    assert equal(snapshot(module), before)


def test_trainable_parameters_of_a_loss_hold_still_and_that_is_said():
    with pytest.warns(errors.LossnavWarning, match=r"CenterLoss has 9 trainable numbers.*They are fixed") as caught:
        objective = ln.Objective(body().eval(), CenterLoss(trainable=True), (X, Y), batch_size=SIZE)
    assert len(caught) == 1
    assert objective.describe()["loss_parameters_held"] == 9
    value = objective.evaluate(moved(objective.params))["loss"]
    assert value == pytest.approx(plain(body, moved(objective.params), CenterLoss()), rel=1e-5)
    assert ln.Objective(body().eval(), nn.CrossEntropyLoss(), (X, Y)).describe()["loss_parameters_held"] == 0


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = MovingLoss()

    def __deepcopy__(self, memo):
        raise TypeError("a lock inside")

    def forward(self, outputs, targets):
        return self.inner(outputs, targets)


def test_a_loss_that_cannot_be_copied_is_put_back_after_every_pass():
    loss = Locked()
    before = snapshot(loss), snapshot(loss.inner)
    objective = ln.Objective(body().eval(), loss, (X, Y), batch_size=SIZE)
    for point in (objective.params, moved(objective.params), objective.params):
        assert objective.evaluate(point)["loss"] == pytest.approx(plain(body, point, MovingLoss()), rel=1e-5)
        assert equal((snapshot(loss), snapshot(loss.inner)), before) or [snapshot(loss), snapshot(loss.inner)] == before
    assert objective.describe()["samples"] == 24


# ---------------------------------------------------------------------- metrics


class Running:
    """As a metric object with `update` and `compute`: a call returns the value of its batch and keeps the sums."""

    def __init__(self):
        self.right, self.total = torch.tensor(0), 0

    def update(self, outputs, targets):
        self.right += (outputs.argmax(1) == targets).sum()
        self.total += len(targets)

    def __call__(self, outputs, targets):
        self.update(outputs, targets)
        return self.right / self.total


def test_a_metric_with_a_state():
    metric = Running()
    objective = ln.Objective(body().eval(), "cross_entropy", (X, Y), metrics={"running": metric}, batch_size=SIZE)
    points = [objective.params, moved(objective.params)]
    truths = [plain(body, point, measure=copy.deepcopy(metric)) for point in points]
    assert [objective.evaluate(points[i])["running"] for i in (0, 1, 0)] == pytest.approx(
        [truths[i] for i in (0, 1, 0)], rel=1e-5
    )
    line = ln.Line(points[0], {name: points[1][name] - points[0][name] for name in points[0]})
    for engine in (ln.Local(), ln.Local(plan="plain")):
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 9)), engine=engine, progress=False)
        assert surface["running"].values[[0, -1]] == pytest.approx(truths, rel=1e-5)
    assert int(metric.right) == metric.total == 0


# ---------------------------------------------------------------------- bare functions


def test_a_bare_function_may_write_into_what_it_is_given():
    state = {"mean": torch.zeros(2)}

    def function(params, batch):
        x, y = batch
        params["w"].mul_(2)
        x.sub_(1)
        state["mean"].add_(0.1)
        return (x @ params["w"] + state["mean"].sum() - y).pow(2).mean()

    x, y = torch.randn(6, 2), torch.randn(6)
    mine, start = x.clone(), torch.ones(2)
    objective = ln.Objective.from_function(function, {"w": start}, (mine, y), batch_size=6)
    point = {"w": torch.tensor([2.0, -1.0])}
    expected = [((x - 1) @ (2 * w) + 0.2 - y).pow(2).mean().item() for w in (start, point["w"].clone())]
    for _ in range(2):
        assert objective.evaluate(objective.params)["loss"] == pytest.approx(expected[0], rel=1e-5)
        assert objective.evaluate(point)["loss"] == pytest.approx(expected[1], rel=1e-5)
    assert torch.equal(point["w"], torch.tensor([2.0, -1.0]))
    assert torch.equal(objective.params["w"], torch.ones(2))
    assert torch.equal(mine, x)
    assert state["mean"].tolist() == [0, 0]
    assert objective.apart().evaluate(point) == objective.evaluate(point)


def test_what_a_function_counts_in_is_the_users():
    calls, seen, weight = [0], [], torch.ones(3)

    def loss(outputs, targets):
        calls[0] += 1
        seen.append(outputs)
        return F.cross_entropy(outputs, targets, weight)

    objective = ln.Objective(body().eval(), loss, (X, Y), batch_size=SIZE)
    made, kept, apart = calls[0], len(seen), objective.apart()
    for _ in range(2):
        objective.evaluate(objective.params)
        apart.evaluate(objective.params)
    assert (calls[0], len(seen)) == (made + 12, kept + 12)
    before = len(seen)
    objective.without_metrics().evaluate(objective.params)
    assert len(seen) == before + 3


def test_warnings_are_not_given_for_ordinary_losses():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight = torch.tensor([1.0, 2.0, 3.0])
        objective = ln.Objective(body().eval(), nn.CrossEntropyLoss(weight), (X, Y), batch_size=SIZE)
        assert not objective._unplanned


class HookingItself(nn.Module):
    """Marks itself once hooked, as transformers' models that record hidden states do; hooks change what it gives."""

    def __init__(self, kind):
        super().__init__()
        self.body, self.kind = body(), kind

    def forward(self, x):
        self.seen = seen = []
        if not getattr(self, "is_hooked", False):
            if self.kind == "forward":
                self.body[0].register_forward_hook(lambda module, given, made: self.seen.append(made))
            elif self.kind == "before":
                self.body[0].register_forward_pre_hook(lambda module, given: self.seen.append(given[0][:, :5]))
            else:
                self.body[0].register_forward_hook(lambda module, given, kw, made: 1.1 * made, with_kwargs=True)
            self.is_hooked = True
        out = self.body(x)
        return out + sum(part.mean(1, keepdim=True) ** 2 * out for part in seen)


@pytest.mark.parametrize("kind", ["forward", "before", "result"])
@pytest.mark.parametrize("copies", [True, False])
def test_hooks_of_the_models_own_are_installed_once(kind, copies):
    torch.manual_seed(0)
    model = HookingItself(kind).eval()
    tables = {name: dict(module._forward_hooks) for name, module in model.named_modules()}
    objective = ln.Objective(model, F.cross_entropy, (X, Y), batch_size=SIZE, copy=copies)
    point = moved(objective.params)
    for at in (objective.params, point, point):
        truth = plain(lambda: HookingItself(kind), at)
        assert objective.evaluate(at)["loss"] == pytest.approx(truth, rel=1e-6)
    line = ln.Line(objective.params, {name: point[name] - t for name, t in objective.params.items()})
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 3)), progress=False)
    assert float(surface["loss"].values[-1]) == pytest.approx(plain(lambda: HookingItself(kind), point), rel=1e-6)
    assert {name: dict(module._forward_hooks) for name, module in model.named_modules()} == tables
    assert not hasattr(model, "is_hooked")


class Counting(nn.Module):
    """Counts its calls in a plain attribute, and keeps a tensor of its own."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls, self.kept = nn.Linear(6, 4), 0, torch.zeros(4)

    def forward(self, x):
        self.calls += 1
        self.kept = 0.9 * self.kept + 0.1 * self.layer(x).mean(0).detach()
        return self.layer(x) * (1 + 0.1 * self.calls) + self.kept


class CountingLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = [0]

    def forward(self, outputs, targets):
        self.calls[0] += 1
        return nn.functional.cross_entropy(outputs, targets) * (1 + 0.01 * self.calls[0])


def merged(model):
    """The same model as a ScriptModule, of which a whole copy is called."""
    return torch.jit.script(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::lossnav.errors.LossnavWarning")
@pytest.mark.parametrize("of", ["model", "loss", "both", "function", "copy"])
def test_a_copy_and_what_is_unpickled_begin_every_pass_anew(of):
    torch.manual_seed(0)
    x, y = torch.randn(80, 6), torch.randint(0, 4, (80,))
    model = Counting().eval() if of in ("model", "both") else nn.Linear(6, 4).eval()
    loss = CountingLoss() if of != "model" else "cross_entropy"
    if of == "function":
        objective = ln.Objective.from_function(Bent(), {"x": torch.ones(3)})
    else:
        objective = ln.Objective(merged(model) if of == "copy" else model, loss, (x, y), batch_size=20)
    truth = objective.evaluate(objective.params)
    again = [copy.deepcopy(objective), copy.deepcopy(copy.deepcopy(objective))]
    again += [pickle.loads(pickle.dumps(one)) for one in (objective, again[0]) if of != "copy"]  # of torch.jit
    for one in [*again, objective]:
        assert [one.evaluate(one.params) for _ in range(3)] == [truth] * 3
        assert one.apart().evaluate(one.params) == truth
        assert one.fingerprint == objective.fingerprint


class Bent:
    """A function that counts in itself."""

    def __init__(self):
        self.calls = 0

    def __call__(self, params):
        self.calls += 1
        return (params["x"] ** 2).sum() * (1 + 0.1 * self.calls)
