"""How data comes and what models are made of: loaders, precisions, buffers, hooks, scripted and pruned models."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from real_case import Case, case, classes, negative_log_likelihood, normal, stir
from real_networks import mean_cross_entropy, mlp, share_right
from real_vision import classified, plain_cnn, share_classified, warmed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

Pair = tuple[Tensor, Tensor]


def pairs(seed: int, n: int = 23) -> Pair:
    return normal(seed, n, 4), classes(seed, 3, n)


def classifier(seed: int) -> nn.Module:
    return stir(mlp(4, 10, 3), seed)


# ---------------------------------------------------------------------- how data comes


class Rows(Dataset[dict[str, Any]]):
    """A dict a sample."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input": self.x[i], "labels": self.y[i]}


class Stream(IterableDataset[Pair]):
    """No length."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Pair]:
        yield from zip(self.x, self.y, strict=True)


def of_rows(model: nn.Module, data: Any) -> Tensor:
    data = data.dataset if isinstance(data, DataLoader) else data
    return mean_cross_entropy(model, (data.x.to(next(model.parameters()).dtype), data.y))


def share_of_rows(model: nn.Module, data: Any) -> float:
    data = data.dataset if isinstance(data, DataLoader) else data
    return share_right(model, (data.x, data.y))


class Named(nn.Sequential):
    """Called by the name of its argument."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


@case("dataset of dicts", "how data comes", "multilayer perceptron", "cross-entropy", "Dataset of dicts")
def _rows(seed: int) -> Case:
    model = stir(Named(*mlp(4, 10, 3)), seed)
    return Case(model, "cross_entropy", Rows(*pairs(seed)), of_rows, share_of_rows, {"batch_size": 9})


@case(
    "loader, shuffled", "how data comes", "multilayer perceptron", "cross-entropy", "DataLoader with its own generator"
)
def _shuffled(seed: int) -> Case:
    x, y = pairs(seed)
    data = TensorDataset(x, y)
    loader = DataLoader(data, batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(seed))

    def plain(model: nn.Module, _: Any) -> Tensor:
        return mean_cross_entropy(model, (x.to(next(model.parameters()).dtype), y))

    return Case(classifier(seed), "cross_entropy", loader, plain, lambda model, _: share_right(model, (x, y)))


@case(
    "loader, streamed",
    "how data comes",
    "multilayer perceptron",
    "cross-entropy",
    "DataLoader read anew at every point",
)
def _streamed(seed: int) -> Case:
    loader = DataLoader(Rows(*pairs(seed)), batch_size=6)
    model = stir(Named(*mlp(4, 10, 3)), seed)
    return Case(model, "cross_entropy", loader, of_rows, share_of_rows, {"data_budget": 0})


@case("iterable dataset", "how data comes", "multilayer perceptron", "cross-entropy", "IterableDataset")
def _stream(seed: int) -> Case:
    return Case(classifier(seed), "cross_entropy", Stream(*pairs(seed)), of_rows, share_of_rows, {"batch_size": 5})


@case("arrays", "how data comes", "multilayer perceptron", "cross-entropy", "NumPy arrays in double precision")
def _arrays(seed: int) -> Case:
    x, y = pairs(seed)
    data = x.double().numpy(), y.numpy()

    def tensors(model: nn.Module, data: Any) -> Pair:
        return torch.from_numpy(data[0]).to(next(model.parameters()).dtype), torch.from_numpy(data[1])

    return Case(
        classifier(seed), "cross_entropy", data, lambda model, data: mean_cross_entropy(model, tensors(model, data)),
        lambda model, data: share_right(model, tensors(model, data)), {"batch_size": 10},
    )  # fmt: skip


Labelled = namedtuple("Labelled", "x y")


@case("named tuples", "how data comes", "multilayer perceptron", "cross-entropy", "list of named tuples")
def _named_tuples(seed: int) -> Case:
    x, y = pairs(seed)
    batches = [Labelled(x[i : i + 7], y[i : i + 7]) for i in range(0, len(x), 7)]

    def plain(model: nn.Module, batches: list[Labelled]) -> Tensor:
        own = [negative_log_likelihood(model(batch.x), batch.y) for batch in batches]
        return torch.cat(own).mean()

    return Case(classifier(seed), "cross_entropy", batches, plain, lambda model, _: share_right(model, (x, y)))


@case("nested batches", "how data comes", "two inputs", "mean squared error", "list of nested dicts, forward=")
def _nested(seed: int) -> Case:
    model = nn.ModuleDict(
        {"text": nn.EmbeddingBag(12, 6, mode="sum"), "numbers": nn.Linear(3, 6), "head": mlp(6, 8, 1)}
    )
    batches = [
        {"given": {"ids": [classes(seed + 5 * i + j, 12, j + 2) for j in range(3)], "numbers": normal(seed + i, 3, 3)},
         "wanted": (normal(seed + i + 1, 3), "unit")}
        for i in range(4)
    ]  # fmt: skip

    def forward(model: Any, batch: dict[str, Any]) -> Pair:
        ids = batch["given"]["ids"]
        offsets = torch.tensor([0, *(len(row) for row in ids[:-1])]).cumsum(0)
        h = model["text"](torch.cat(ids), offsets) + model["numbers"](batch["given"]["numbers"])
        return model["head"](torch.tanh(h))[:, 0], batch["wanted"][0]

    def plain(model: Any, batches: list[dict[str, Any]]) -> Tensor:
        own = []
        for batch in batches:
            for row, numbers, wanted in zip(*batch["given"].values(), batch["wanted"][0], strict=True):
                h = model["text"].weight[row].sum(0) + model["numbers"](numbers)
                own.append((model["head"](torch.tanh(h))[0] - wanted) ** 2)
        return torch.stack(own).mean()

    return Case(stir(model, seed), "mse", batches, plain, options={"forward": forward})


class ReadsInPlace(nn.Module):
    """Normalises its input in place, as some preprocessing does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.mul_(0.5).add_(0.1))


@case("written input", "how data comes", "writes into its input", "cross-entropy", "list of tuples")
def _written(seed: int) -> Case:
    x, y = pairs(seed)
    batches = [(x[i : i + 8].clone(), y[i : i + 8]) for i in range(0, len(x), 8)]

    def plain(model: Any, batches: list[Pair]) -> Tensor:
        own = [negative_log_likelihood(model.net(0.5 * x + 0.1), y) for x, y in batches]
        return torch.cat(own).mean()

    def accuracy(model: Any, batches: list[Pair]) -> float:
        return sum(int((model.net(0.5 * x + 0.1).argmax(1) == y).sum()) for x, y in batches) / len(y)

    return Case(stir(ReadsInPlace(), seed), "cross_entropy", batches, plain, accuracy)


# ---------------------------------------------------------------------- embeddings


@case("embedding bag", "embeddings", "EmbeddingBag with weights of samples", "binary cross-entropy",
      "(ids, weights, y), forward=")  # fmt: skip
def _bag(seed: int) -> Case:
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(15, 6, mode="sum"), "head": nn.Linear(6, 1)})
    data = (
        classes(seed, 15, 21, 5),
        torch.rand(21, 5, generator=torch.Generator().manual_seed(seed)),
        classes(seed, 2, 21).float(),
    )

    def forward(model: Any, batch: tuple[Tensor, ...]) -> Pair:
        return model["head"](model["bag"](batch[0], per_sample_weights=batch[1]))[:, 0], batch[2]

    def plain(model: Any, data: tuple[Tensor, ...]) -> Tensor:
        summed = (model["bag"].weight[data[0]] * data[1][..., None]).sum(1)
        z = model["head"](summed)[:, 0]
        return (F.softplus(z) - data[2] * z).mean()

    return Case(stir(model, seed), "binary_cross_entropy_with_logits", data, plain,
                options={"forward": forward, "batch_size": 8})  # fmt: skip


@case("sparse embedding", "embeddings", "matrix factorisation with sparse gradients", "mean squared error",
      "(user, item, y)")  # fmt: skip
def _sparse(seed: int) -> Case:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(7, 4, sparse=True), nn.Embedding(9, 4, sparse=True)

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return (self.user(user) * self.item(item)).sum(1)

    data = classes(seed, 7, 30), classes(seed + 1, 9, 30), normal(seed, 30)

    def plain(model: Any, data: tuple[Tensor, ...]) -> Tensor:
        own = [(torch.dot(model.user.weight[u], model.item.weight[i]) - y) ** 2 for u, i, y in zip(*data, strict=True)]
        return torch.stack(own).mean()

    return Case(stir(Factors(), seed), "mse", data, plain, options={"batch_size": 11})


# ---------------------------------------------------------------------- precisions


@case("float64", "precision", "convolutions and BatchNorm in double precision", "cross-entropy")
def _double(seed: int) -> Case:
    images, targets = normal(seed, 20, 3, 12, 12).double(), classes(seed, 5, 20)
    model = warmed(stir(plain_cnn().double(), seed), images)
    return Case(model, "cross_entropy", (images, targets), classified, share_classified, {"batch_size": 8})


@case("bfloat16", "precision", "multilayer perceptron in bfloat16", "cross-entropy")
def _half(seed: int) -> Case:
    """Rounding to eight bits: held to 4 times what bfloat16 differs from float64 in plain torch."""
    model = stir(mlp(4, 16, 3), seed).to(torch.bfloat16)
    x, y = pairs(seed, 40)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        return F.cross_entropy(model(data[0]), data[1])

    return Case(model, "cross_entropy", (x.to(torch.bfloat16), y), plain, share_right, {"batch_size": 40},
                differentiable=False)  # fmt: skip


@case("autocast", "precision", "autocast to bfloat16 inside the model", "mean squared error")
def _autocast(seed: int) -> Case:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.on = mlp(4, 16, 2), True

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.float32):
                return self.net(x).to(x.dtype)

    def plain(model: Any, data: Pair) -> Tensor:
        return (model(data[0]) - data[1]).square().mean()

    data = normal(seed, 24, 4), normal(seed + 1, 24, 2)
    return Case(stir(Cast(), seed), "mse", data, plain, options={"batch_size": 8}, differentiable=False)


# ---------------------------------------------------------------------- norms and buffers


@case("norms", "buffers", "BatchNorm without statistics or weights, InstanceNorm, GroupNorm, RMSNorm", "cross-entropy")
def _norms(seed: int) -> Case:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Conv2d(8, 8, 3),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU(), nn.GroupNorm(4, 8), nn.Flatten(),
        nn.RMSNorm(512), nn.Linear(512, 5), nn.BatchNorm1d(5, momentum=None),
    )  # fmt: skip
    images, targets = normal(seed, 20, 3, 12, 12), classes(seed, 5, 20)
    model = warmed(stir(model, seed), images)
    return Case(model, "cross_entropy", (images, targets), classified, share_classified, {"batch_size": 8})


@case("batchnorm of the batch", "buffers", "BatchNorm without running statistics", "cross-entropy, the user's batches")
def _own_statistics(seed: int) -> Case:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3))
    x, y = pairs(seed, 24)
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 24, 8)]

    def plain(model: Any, batches: list[Pair]) -> Tensor:
        own = []
        for x, y in batches:
            h = model[0](x)
            h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt() * model[1].weight + model[1].bias
            own.append(negative_log_likelihood(model[3](torch.relu(h)), y))
        return torch.cat(own).mean()

    return Case(stir(model, seed), "cross_entropy", batches, plain)


@case("old spectral norm", "buffers", "spectral_norm of the older kind", "cross-entropy")
def _old_spectral(seed: int) -> Case:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 3))
    stir(model, seed)

    def plain(model: Any, data: Pair) -> Tensor:
        first = model[0]
        weight = first.weight_orig / (first.weight_u @ first.weight_orig @ first.weight_v)
        return negative_log_likelihood(model[2](torch.tanh(data[0] @ weight.T + first.bias)), data[1]).mean()

    return Case(model, "cross_entropy", pairs(seed), plain, share_right, {"batch_size": 8})


@case("normaliser", "buffers", "the user's own mean and spread in buffers", "mean squared error")
def _normaliser(seed: int) -> Case:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 10, 2)
            self.register_buffer("mean", normal(seed + 1, 4))
            self.register_buffer("spread", normal(seed + 2, 4).exp(), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x - self.mean) / self.spread)

    def plain(model: Any, data: Pair) -> Tensor:
        return (model.net((data[0] - model.mean) / model.spread) - data[1]).square().mean()

    data = normal(seed, 24, 4), normal(seed + 1, 24, 2)
    return Case(stir(Scaled(), seed), "mse", data, plain, options={"batch_size": 8})


# ---------------------------------------------------------------------- what models are made of


@case("scripted", "made of", "a scripted model", "cross-entropy")
def _scripted(seed: int) -> Case:
    return Case(torch.jit.script(classifier(seed)), "cross_entropy", pairs(seed), mean_cross_entropy, share_right,
                {"batch_size": 8})  # fmt: skip


@case("hooked", "made of", "forward hooks that change inputs and outputs", "cross-entropy")
def _hooked(seed: int) -> Case:
    model = classifier(seed)
    model[0].register_forward_hook(lambda module, given, made: 2 * made)
    model[2].register_forward_pre_hook(lambda module, given: (given[0] + 0.1,))

    def plain(model: Any, data: Pair) -> Tensor:
        h = torch.tanh(2 * (data[0] @ model[0].weight.T + model[0].bias)) + 0.1
        return negative_log_likelihood(h @ model[2].weight.T + model[2].bias, data[1]).mean()

    return Case(model, "cross_entropy", pairs(seed), plain, share_right, {"batch_size": 8})


@case("pruned", "made of", "pruned by masks", "cross-entropy")
def _pruned(seed: int) -> Case:
    from torch.nn.utils import prune

    model = classifier(seed)
    prune.random_unstructured(model[0], "weight", amount=0.5)
    prune.ln_structured(model[2], "weight", amount=1, n=2, dim=1)

    def plain(model: Any, data: Pair) -> Tensor:
        h = torch.tanh(data[0] @ (model[0].weight_orig * model[0].weight_mask).T + model[0].bias)
        return negative_log_likelihood(
            h @ (model[2].weight_orig * model[2].weight_mask).T + model[2].bias, data[1]
        ).mean()

    return Case(model, "cross_entropy", pairs(seed), plain, None, {"batch_size": 8})


@case("checkpointed", "made of", "activation checkpointing", "cross-entropy")
def _checkpointed(seed: int) -> Case:
    from torch.utils.checkpoint import checkpoint

    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = mlp(4, 10, 8), mlp(8, 10, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = checkpoint(self.first, x, use_reentrant=False)
            return checkpoint(self.second, torch.tanh(h), use_reentrant=False)

    def plain(model: Any, data: Pair) -> Tensor:
        return negative_log_likelihood(model.second(torch.tanh(model.first(data[0]))), data[1]).mean()

    return Case(stir(Saving(), seed), "cross_entropy", pairs(seed), plain, share_right, {"batch_size": 8})


@case(
    "lists of parameters",
    "made of",
    "ParameterList, ParameterDict, a scalar, a parameter of no use",
    "mean squared error",
)
def _lists(seed: int) -> Case:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList(torch.randn(4, 4) / 2 for _ in range(3))
            self.gains = nn.ParameterDict({"in": torch.ones(4), "out": torch.tensor(1.5)})
            self.unused = nn.Parameter(torch.randn(2))

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.gains["in"]
            for weight in self.weights:
                x = torch.sin(x @ weight)
            return self.gains["out"] * x

    def plain(model: Any, data: Pair) -> Tensor:
        a, b, c = model.weights
        made = torch.sin(torch.sin(torch.sin((data[0] * model.gains["in"]) @ a) @ b) @ c) * model.gains["out"]
        return ((made - data[1]) ** 2).mean()

    data = normal(seed, 24, 4), normal(seed + 1, 24, 4)
    return Case(stir(Loose(), seed), "mse", data, plain, options={"batch_size": 8})


@case("frozen body", "made of", "a body that is not trained and a head that is", "cross-entropy")
def _frozen(seed: int) -> Case:
    model = classifier(seed)
    model[0].requires_grad_(False)
    return Case(model, "cross_entropy", pairs(seed), mean_cross_entropy, share_right,
                {"batch_size": 8, "params": "2.*"})  # fmt: skip


@case("looked at", "made of", "multilayer perceptron, copy=False", "cross-entropy")
def _looked_at(seed: int) -> Case:
    return Case(classifier(seed), "cross_entropy", pairs(seed), mean_cross_entropy, share_right,
                {"batch_size": 8, "copy": False})  # fmt: skip


@case("compiled", "made of", "torch.compile around a model, its parameters under _orig_mod", "cross-entropy")
def _compiled(seed: int) -> Case:
    model = torch.compile(classifier(seed), backend="eager")
    return Case(model.eval(), "cross_entropy", pairs(seed), mean_cross_entropy, share_right, {"batch_size": 8})


@case("quantised in training", "made of", "weights rounded with a straight-through gradient", "cross-entropy")
def _quantised(seed: int) -> Case:
    class Rounded(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            step = self.weight.detach().abs().max() / 7
            rounded = (self.weight / step).round() * step
            return F.linear(x, self.weight + (rounded - self.weight).detach(), self.bias)

    model = nn.Sequential(Rounded(4, 10), nn.Tanh(), Rounded(10, 3))

    def plain(model: Any, data: Pair) -> Tensor:
        x = data[0]
        for layer in (model[0], model[2]):
            step = layer.weight.detach().abs().max() / 7
            wanted = (layer.weight.detach() / step).round() * step
            x = x @ (layer.weight - (layer.weight.detach() - wanted)).T + layer.bias
            x = torch.tanh(x) if layer is model[0] else x
        return negative_log_likelihood(x, data[1]).mean()

    return Case(stir(model, seed), "cross_entropy", pairs(seed), plain, share_right, {"batch_size": 8})


@case("ensemble by vmap", "made of", "three networks in one, called by torch.vmap", "cross-entropy of the mean")
def _ensemble(seed: int) -> Case:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(3, 4, 8)), nn.Parameter(torch.randn(3, 8, 3))

        def forward(self, x: Tensor) -> Tensor:
            one = torch.vmap(lambda a, b, x: torch.tanh(x @ a) @ b, in_dims=(0, 0, None))
            return one(self.first, self.second, x).mean(0)

    def plain(model: Any, data: Pair) -> Tensor:
        made = sum(torch.tanh(data[0] @ a) @ b for a, b in zip(model.first, model.second, strict=True)) / 3
        return negative_log_likelihood(made, data[1]).mean()

    return Case(stir(Three(), seed), "cross_entropy", pairs(seed), plain, share_right, {"batch_size": 8})


@case("early exits", "made of", "a loop whose length depends on the data", "cross-entropy")
def _exits(seed: int) -> Case:
    class Exits(nn.Module):
        """As many steps as the input asks for; those that are done stay as they are."""

        def __init__(self) -> None:
            super().__init__()
            self.step, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            steps = (x[:, 0].abs() * 3).long()
            for number in range(int(steps.max())):
                x = torch.where((number < steps)[:, None], torch.tanh(self.step(x)) + x, x)
            return self.head(x)

    def plain(model: Any, data: Pair) -> Tensor:
        own = []
        for x, y in zip(*data, strict=True):
            h = x
            for _ in range(int(abs(float(x[0])) * 3)):
                h = torch.tanh(model.step(h)) + h
            own.append(negative_log_likelihood(model.head(h), y))
        return torch.stack(own).mean()

    return Case(stir(Exits(), seed), "cross_entropy", pairs(seed), plain, share_right, {"batch_size": 8})
