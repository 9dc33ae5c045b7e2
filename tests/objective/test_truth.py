"""At the centre and elsewhere an objective has the loss of the user's own model, or it is refused."""

import copy
import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors

torch.manual_seed(0)
X, Y = torch.randn(24, 6), torch.randint(0, 3, (24,))
WORLD = {}  # what a script keeps in its globals


def body(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


def moved(params, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in params.items()}


def plain(make, weights, run=None):
    """The loss that plain torch has: a model made anew, the weights loaded, eval mode."""
    model = make()
    model.load_state_dict(weights, strict=False)
    model.eval()
    with torch.no_grad():
        return (run or (lambda model: F.cross_entropy(model(X), Y)))(model).item()


def state_of(model):
    return copy.deepcopy(
        {**model.state_dict(), **{f"mode {n}": torch.tensor(m.training) for n, m in model.named_modules()}}
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def holds(make, run=None, model=None, **options):
    """Hold an objective against plain torch at two points, in both orders, by plans and without."""
    model = model or make()
    before = state_of(model)
    random_state = torch.get_rng_state()
    loss = options.pop("loss", F.cross_entropy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.TrainModeWarning)
        objective = ln.Objective(model, loss, (X, Y), batch_size=24, **options)
    points = [objective.params, moved(objective.params)]
    truths = [plain(make, point, run) for point in points]
    assert truths[0] != pytest.approx(truths[1], rel=1e-4)
    values = [objective.evaluate(points[i])["loss"] for i in (0, 1, 1, 0, 1)]
    assert values == pytest.approx([truths[i] for i in (0, 1, 1, 0, 1)], rel=1e-5)
    line = ln.Line(points[0], {name: points[1][name] - points[0][name] for name in points[0]})
    for engine in (ln.Local(), ln.Local(plan="plain")):
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 5)), engine=engine, progress=False)
        assert surface["loss"].values[[0, -1]] == pytest.approx(truths, rel=1e-5)
    assert same(state_of(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    return objective


# ---------------------------------------------------------------------- models whose mode changes their weights


class LoRA(nn.Linear):
    """Of the older kind: eval() adds the low-rank part to the weight, train() takes it out."""

    def __init__(self, n, m):
        super().__init__(n, m)
        self.down, self.up = nn.Parameter(torch.randn(2, n)), nn.Parameter(torch.randn(m, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up.data @ self.down.data
            self.merged = not mode
        return self

    def forward(self, x):
        made = super().forward(x)
        return made if self.merged else made + x @ self.down.T @ self.up.T


def lora():
    torch.manual_seed(0)
    return nn.Sequential(LoRA(6, 5), nn.Tanh(), nn.Linear(5, 3))


def test_a_layer_that_merges_its_weights_in_eval_mode():
    holds(lora)


def test_a_layer_that_has_merged_its_weights_already():
    model = lora().eval()

    def make():
        return copy.deepcopy(model)

    objective = holds(make, model=make())
    bent = objective.params | {"0.up": objective.params["0.up"] + 1}
    assert objective.evaluate(bent) == objective.evaluate(objective.params)  # as in plain torch: it is merged


class Precomputing(nn.Module):
    """eval() computes what forward() uses: a product of two weights, once."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)
        self.product = None

    def train(self, mode=True):
        super().train(mode)
        self.product = None if mode else (self.b.weight @ self.a.weight).detach()
        return self

    def forward(self, x):
        return self.b(self.a(x)) if self.product is None else x @ self.product.T


def test_a_model_that_precomputes_in_eval_mode():
    holds(Precomputing)


class FrozenNorm(nn.Module):
    """train() is overridden and changes nothing that matters: no reason to be slower or to refuse."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.layer(x))


def test_an_overridden_mode_that_changes_nothing():
    assert not holds(FrozenNorm)._unplanned


# ---------------------------------------------------------------------- caches


class Cache(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.cache, self.table = kind, None, {}
        self.layer = nn.Linear(6, 3)

    @functools.cached_property
    def doubled(self):
        return 2 * self.layer.weight.detach()

    def weight(self):
        if self.kind == "attribute":
            if self.cache is None:
                self.cache = 2 * self.layer.weight
            return self.cache
        if self.kind == "dict":
            if "w" not in self.table:
                self.table["w"] = 2 * self.layer.weight
            return self.table["w"]
        return self.doubled

    def forward(self, x):
        return F.linear(x, self.weight(), self.layer.bias)


@pytest.mark.parametrize("kind", ["attribute", "dict", "property"])
def test_a_cache_that_is_filled_by_the_first_call(kind):
    holds(lambda: Cache(kind))


@pytest.mark.parametrize("kind", ["attribute", "dict", "property"])
def test_a_cache_that_was_filled_before_is_refused(kind):
    model = Cache(kind).eval()
    with torch.no_grad():
        model(X)
    with pytest.raises(errors.ObjectiveError, match=r'"(cache|table|doubled)" of the model holds a value computed'):
        ln.Objective(model, F.cross_entropy, (X, Y))


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - what people do
    def weight(self):
        return 2 * self.layer.weight

    def forward(self, x):
        return F.linear(x, self.weight(), self.layer.bias)


def test_a_cached_method_is_right_or_refused():
    with pytest.raises(errors.ObjectiveError, match="keeps state outside of itself"):
        ln.Objective(Remembering().eval(), F.cross_entropy, (X, Y))


class Constants(nn.Module):
    """Plain tensors that are no cache, and features that are kept for whoever wants to look."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale, self.features = nn.Linear(6, 3), torch.tensor([1.0, 2.0, 0.5]), None
        self.angles = {"cos": torch.arange(3.0).cos()}

    def forward(self, x):
        self.features = self.layer(x)
        return self.features * self.scale + self.angles["cos"]


def test_constants_and_kept_features_are_no_cache():
    assert not holds(Constants)._unplanned


# ---------------------------------------------------------------------- weights that hide


class Compared(nn.Module):
    """A second use of a weight, through a list, whose result hides NaN."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.gate, self.how = nn.Linear(6, 3), nn.Linear(6, 3), how
        self.hidden = [self.gate.weight]

    def forward(self, x):
        w, h = self.hidden[0], self.layer(x)
        if self.how == "compare":
            return h * (x.mean(1, keepdim=True) > w.sum(1) / 9)
        if self.how == "nan_to_num":
            return h + torch.nan_to_num(w).sum(1)
        if self.how == "argmax":
            return h + F.one_hot(w.sum(1).argmax(), 3)
        if self.how == "where":
            return torch.where(w.sum(1) > 0, h, -h)
        return h * (1 + w.int().sum(1).clamp(0, 3))


@pytest.mark.parametrize("how", ["compare", "nan_to_num", "argmax", "where", "int"])
def test_a_second_use_that_hides_nan(how):
    holds(lambda: Compared(how))


class View(nn.Module):
    """Keeps a view of its weight: load_state_dict writes through it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.turned = self.layer.weight.detach().t()

    def forward(self, x):
        return x @ self.turned + self.layer.bias


def test_a_view_of_a_weight():
    holds(View)


class PlainList(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.steps = [self.one, torch.relu, self.one]

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return self.head(x)


def test_modules_in_a_plain_list():
    holds(PlainList)


# ---------------------------------------------------------------------- closures over the model


class Lambda(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.call = lambda x: F.linear(x, self.layer.weight, self.layer.bias)

    def forward(self, x):
        return self.call(x)


def test_a_lambda_attribute_over_self():
    holds(Lambda)


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.other = nn.Linear(6, 3), nn.Linear(6, 3)
        self.layer.register_forward_hook(lambda _, args, made: made + self.other(args[0]))

    def forward(self, x):
        return self.layer(x)


def test_a_hook_over_self():
    holds(Hooked)


def decay(model):
    return 0.01 * sum(parameter.pow(2).sum() for parameter in model.parameters())


def test_weight_decay_in_the_loss():
    """By a closure, a partial and a bound method: the loss looks at our copy of the model."""
    model = body()

    def closure(outputs, targets):
        return F.cross_entropy(outputs, targets) + decay(model)

    class Trainer:
        def __init__(self, net):
            self.net = net

        def loss(self, outputs, targets):
            return F.cross_entropy(outputs, targets) + decay(self.net)

    def over(net, outputs, targets):
        return F.cross_entropy(outputs, targets) + decay(net)

    def run(net):
        return F.cross_entropy(net(X), Y) + decay(net)

    for loss in (closure, Trainer(model).loss, functools.partial(over, model)):
        objective = holds(body, run, model=model, loss=loss)
        assert "looks at the model" in objective._unplanned
    once = ln.Objective(model, closure, (X, Y), batch_size=24)
    exact = once.double().evaluate(moved(once.params))["loss"]
    assert exact == pytest.approx(plain(body, moved(once.params), run), rel=1e-5)
    gradient = ln.curvature.Hessian(once).derive().gradient
    theirs = torch.autograd.grad(run(model), list(model.parameters()))
    assert torch.allclose(gradient.float(), torch.cat([g.reshape(-1) for g in theirs]), rtol=1e-4, atol=1e-6)
    assert once.apart().evaluate(once.params) == once.evaluate(once.params)


def test_a_metric_over_the_model():
    model = body()
    objective = ln.Objective(model, "cross_entropy", (X, Y), metrics={"decay": lambda outputs, _: decay(model)})
    point = moved(objective.params)
    assert objective.evaluate(point)["decay"] == pytest.approx(plain(body, point, decay), rel=1e-5)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = body()

    def forward(self, x):
        return 2 * self.inner(x)


def test_a_forward_that_calls_the_outer_model():
    outer = Outer().eval()
    holds(
        body,
        lambda net: F.cross_entropy(2 * net(X), Y),
        model=outer.inner,
        forward=lambda model, batch: (outer(batch[0]), batch[1]),
    )


@pytest.mark.parametrize("how", ["loss", "forward", "hook", "metric"])
def test_a_global_model_is_refused_by_name_and_place(how):
    WORLD["model"] = model = body()
    if how == "hook":
        model[0].register_forward_hook(lambda _, args, made: made + WORLD["model"][0].bias)
    options = {
        "loss": {"loss": lambda o, t: F.cross_entropy(o, t) + decay(WORLD["model"])},
        "forward": {"forward": lambda _, batch: (WORLD["model"](batch[0]), batch[1])},
        "hook": {},
        "metric": {"metrics": {"decay": lambda o, t: decay(WORLD["model"])}},
    }[how]
    where = {"loss": "in the loss", "hook": 'hook of "0"'}.get(how, "in forward= or a metric")
    for copies in (True, False):
        with pytest.raises(errors.ObjectiveError, match=rf'"0\.\w+".* of your own model is used .*{where}.*test_truth'):
            ln.Objective(model, **({"loss": "cross_entropy"} | options), data=(X, Y), copy=copies)
    WORLD.clear()


def test_a_global_that_holds_still_is_no_fault():
    """A frozen teacher, and the sizes of a weight: nothing of the model's moving weights is read."""
    WORLD["teacher"], WORLD["model"] = body(3), body()
    teacher = copy.deepcopy(WORLD["teacher"])

    def loss(outputs, targets):
        width = WORLD["model"][0].weight.shape[0]
        zeros = torch.zeros_like(WORLD["model"][0].weight).sum()
        return F.cross_entropy(outputs, targets) + (outputs - WORLD["teacher"](X)).pow(2).mean() / width + zeros

    holds(body, lambda n: F.cross_entropy(n(X), Y) + (n(X) - teacher(X)).pow(2).mean() / 5, WORLD["model"], loss=loss)
    WORLD.clear()


def test_the_model_itself_where_nothing_is_copied():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    model(X)
    model.eval()
    before, addresses = state_of(model), [p.data_ptr() for p in model.parameters()]
    versions = [p._version for p in [*model.parameters(), *model.buffers()]]
    objective = ln.Objective(model, "cross_entropy", (X, Y), copy=False)
    assert [t.data_ptr() for t in objective.params.values()] == addresses
    assert [p._version for p in [*model.parameters(), *model.buffers()]] == versions
    assert same(state_of(model), before)
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(F.cross_entropy(model(X), Y).item(), rel=1e-5)
    embedding = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Flatten(), nn.Linear(4, 3)).eval()
    kept = state_of(embedding)
    rude = ln.Objective(embedding, "cross_entropy", (torch.arange(5).reshape(5, 1), Y[:5]), copy=False)
    rude.evaluate(rude.params)
    assert same(state_of(embedding), kept)
