"""Losses: what is averaged over what, weighted by what, with what left out."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from real_case import Case, case, classes, cuts, negative_log_likelihood, normal, stir
from real_networks import mlp, share_right
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- classification


@case("class weights", "classification", "multilayer perceptron", "cross-entropy with class weights, some ignored")
def _class_weights(seed: int) -> Case:
    weight = torch.tensor([0.1, 1.0, 10.0])
    x, y = normal(seed, 29, 4), classes(seed, 3, 29)
    y[::5] = -100

    def plain(model: nn.Module, data: Pair) -> Tensor:
        top, bottom = 0.0, 0.0
        for row, target in zip(*data, strict=True):
            if target >= 0:
                top = top + weight[target] * negative_log_likelihood(model(row), target)
                bottom += float(weight[target])
        return top / bottom

    return Case(stir(mlp(4, 10, 3), seed), nn.CrossEntropyLoss(weight), (x, y), plain, options={"batch_size": 8},
                tuned=True)  # fmt: skip


@case(
    "class weights, smoothed", "classification", "multilayer perceptron", "cross-entropy, class weights and smoothing"
)
def _weights_smoothed(seed: int) -> Case:
    """With both torch divides by the batch's weights, so the value belongs to the cut: the batches are one."""
    weight = torch.tensor([0.5, 1.0, 3.0])
    data = normal(seed, 20, 4), classes(seed, 3, 20)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        scores = model(data[0]).log_softmax(1)
        share = weight[data[1]]
        own = -(share * scores.gather(1, data[1][:, None])[:, 0]).sum() / share.sum()
        every = -(scores * weight.to(scores.dtype)).sum() / share.sum()
        return 0.8 * own + 0.2 / 3 * every

    return Case(stir(mlp(4, 10, 3), seed), nn.CrossEntropyLoss(weight, label_smoothing=0.2), data, plain,
                options={"batch_size": 20})  # fmt: skip


@case("soft labels", "classification", "multilayer perceptron", "cross-entropy of probabilities")
def _soft_labels(seed: int) -> Case:
    data = normal(seed, 22, 4), normal(seed + 1, 22, 3).softmax(1)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        return -(data[1] * model(data[0]).log_softmax(1)).sum(1).mean()

    return Case(stir(mlp(4, 10, 3), seed), "cross_entropy", data, plain, options={"batch_size": 9})


@case("nll", "classification", "multilayer perceptron and LogSoftmax", "negative log-likelihood")
def _nll(seed: int) -> Case:
    model = nn.Sequential(mlp(4, 10, 3), nn.LogSoftmax(dim=1))
    data = normal(seed, 22, 4), classes(seed, 3, 22)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        return -model(data[0]).gather(1, data[1][:, None]).mean()

    return Case(stir(model, seed), nn.NLLLoss(), data, plain, share_right, {"batch_size": 9})


@case("binary", "classification", "multilayer perceptron with one output", "binary cross-entropy with logits")
def _binary(seed: int) -> Case:
    model = nn.Sequential(mlp(4, 10, 1), nn.Flatten(0))
    data = normal(seed, 23, 4), classes(seed, 2, 23).float()

    def plain(model: nn.Module, data: Pair) -> Tensor:
        p = model(data[0]).sigmoid()
        return -(data[1] * p.log() + (1 - data[1]) * (1 - p).log()).mean()

    def accuracy(model: nn.Module, data: Pair) -> float:
        return float(((model(data[0]) > 0) == (data[1] > 0.5)).double().mean())

    return Case(stir(model, seed), nn.BCEWithLogitsLoss(), data, plain, accuracy, {"batch_size": 9})


@case("multi-label", "classification", "multilayer perceptron", "binary cross-entropy with positive weights")
def _multi_label(seed: int) -> Case:
    data = normal(seed, 23, 4), classes(seed, 2, 23, 5).float()
    positive = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0])

    def plain(model: nn.Module, data: Pair) -> Tensor:
        z = model(data[0])
        return (data[1] * positive * F.softplus(-z) + (1 - data[1]) * F.softplus(z)).mean()

    return Case(stir(mlp(4, 10, 5), seed), nn.BCEWithLogitsLoss(pos_weight=positive), data, plain,
                options={"batch_size": 9})  # fmt: skip


@case("focal", "classification", "multilayer perceptron", "focal, a function of the user's own")
def _focal(seed: int) -> Case:
    data = normal(seed, 24, 4), classes(seed, 3, 24)

    def focal(outputs: Tensor, targets: Tensor, gamma: float = 2.0, reduction: str = "mean") -> Tensor:
        wrong = F.cross_entropy(outputs, targets, reduction="none")
        values = (1 - (-wrong).exp()) ** gamma * wrong
        return values.mean() if reduction == "mean" else values

    def plain(model: nn.Module, data: Pair) -> Tensor:
        p = model(data[0]).softmax(1).gather(1, data[1][:, None])
        return (-((1 - p) ** 2) * p.log()).mean()

    return Case(stir(mlp(4, 10, 3), seed), focal, data, plain, share_right, {"batch_size": 7})


@case("margins", "classification", "multilayer perceptron", "multi-margin hinge")
def _margins(seed: int) -> Case:
    data = normal(seed, 21, 4), classes(seed, 3, 21)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        z = model(data[0])
        over = (1 - z.gather(1, data[1][:, None]) + z).clamp(min=0)
        return (over.sum(1) - over.gather(1, data[1][:, None])[:, 0]).mean() / 3

    return Case(stir(mlp(4, 10, 3), seed), nn.MultiMarginLoss(), data, plain, share_right, {"batch_size": 8})


@case("arcface", "classification", "multilayer perceptron", "angular margins; a loss module with weights held still")
def _arcface(seed: int) -> Case:
    class Angles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centres", normal(seed + 4, 3, 6))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            cosine = F.normalize(outputs, dim=1) @ F.normalize(self.centres, dim=1).T.to(outputs.dtype)
            angle = torch.acos(cosine.clamp(-0.999, 0.999)) + 0.2 * F.one_hot(targets, 3)
            return F.cross_entropy(4 * torch.cos(angle), targets)

    data, loss = (normal(seed, 21, 4), classes(seed, 3, 21)), Angles()

    def plain(model: nn.Module, data: Pair) -> Tensor:
        made = model(data[0])
        centres = loss.centres.to(made.dtype)
        cosine = (made @ centres.T) / made.norm(dim=1, keepdim=True) / centres.norm(dim=1)
        own = cosine.gather(1, data[1][:, None])
        moved = own * math.cos(0.2) - (1 - own**2).sqrt() * math.sin(0.2)
        scores = 4 * cosine.scatter(1, data[1][:, None], moved)
        return negative_log_likelihood(scores, data[1]).mean()

    return Case(stir(mlp(4, 10, 6), seed), loss, data, plain, options={"batch_size": 7})


# ---------------------------------------------------------------------- regression


def _regression(name: str, described: str, loss: Any, targets: Any, by_hand: Any) -> None:
    @case(name, "regression", "multilayer perceptron", described)
    def build(seed: int) -> Case:
        data = normal(seed, 26, 4), targets(seed)

        def plain(model: nn.Module, data: Pair) -> Tensor:
            own = [by_hand(model(x), y) for x, y in zip(*data, strict=True)]
            return torch.stack(own).mean()

        return Case(stir(mlp(4, 10, 2), seed), loss, data, plain, options={"batch_size": 8})


_regression("poisson", "Poisson negative log-likelihood", nn.PoissonNLLLoss(),
            lambda seed: classes(seed, 5, 26, 2).float(), lambda z, y: (z.exp() - y * z).mean())  # fmt: skip
_regression("smooth l1", "smooth L1", nn.SmoothL1Loss(beta=0.5), lambda seed: 2 * normal(seed + 1, 26, 2),
            lambda z, y: torch.where((z - y).abs() < 0.5, (z - y) ** 2, (z - y).abs() - 0.25).mean())  # fmt: skip
_regression("log cosh", "log cosh, a function of the user's own", lambda z, y: torch.log(torch.cosh(z - y)).mean(),
            lambda seed: normal(seed + 1, 26, 2),
            lambda z, y: ((z - y).exp() + (y - z).exp()).log().mean() - math.log(2))  # fmt: skip
_regression("soft margin", "soft margin", nn.SoftMarginLoss(), lambda seed: 2.0 * classes(seed, 2, 26, 2) - 1,
            lambda z, y: F.softplus(-y * z).mean())  # fmt: skip


@case("kl divergence", "regression", "multilayer perceptron and LogSoftmax", "Kullback-Leibler, batchmean")
def _kl(seed: int) -> Case:
    model = nn.Sequential(mlp(4, 10, 3), nn.LogSoftmax(dim=1))
    data = normal(seed, 24, 4), normal(seed + 1, 24, 3).softmax(1)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        return (data[1] * (data[1].log() - model(data[0]))).sum(1).mean()

    return Case(stir(model, seed), nn.KLDivLoss(reduction="batchmean"), data, plain, options={"batch_size": 7})


@case("quantiles", "regression", "multilayer perceptron", "three quantiles at once")
def _quantiles(seed: int) -> Case:
    levels = torch.tensor([0.1, 0.5, 0.9])
    data = normal(seed, 25, 4), normal(seed + 1, 25)

    def pinball(outputs: Tensor, targets: Tensor) -> Tensor:
        off = targets[:, None] - outputs
        return torch.maximum(levels.to(off.dtype) * off, (levels.to(off.dtype) - 1) * off).mean()

    def plain(model: nn.Module, data: Pair) -> Tensor:
        total = 0.0
        for x, y in zip(*data, strict=True):
            for z, level in zip(model(x), (0.1, 0.5, 0.9), strict=True):
                total = total + (level * (y - z) if y > z else (1 - level) * (z - y))
        return total / (3 * len(data[1]))

    return Case(stir(mlp(4, 10, 3), seed), pinball, data, plain, options={"batch_size": 8})


@case("mixture density", "regression", "mixture density network", "negative log-likelihood of three Gaussians")
def _mixture(seed: int) -> Case:
    data = normal(seed, 24, 4), normal(seed + 1, 24)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        weight, mean, log_sigma = outputs.chunk(3, 1)
        z = (targets[:, None] - mean) * (-log_sigma).exp()
        return -torch.logsumexp(weight.log_softmax(1) - 0.5 * z**2 - log_sigma - 0.5 * math.log(2 * math.pi), 1)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        weight, mean, log_sigma = model(data[0]).split(3, dim=1)
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=weight), torch.distributions.Normal(mean, log_sigma.exp())
        )
        return -mixture.log_prob(data[1]).mean()

    return Case(stir(mlp(4, 10, 9), seed), loss, data, plain, options={"batch_size": 7, "reduction": "none"})


@case("gaussian", "regression", "mean and variance", "Gaussian negative log-likelihood, tuple outputs")
def _gaussian(seed: int) -> Case:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.mean, self.spread = mlp(4, 8, 8), nn.Linear(8, 1), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Pair:
            h = torch.tanh(self.body(x))
            return self.mean(h)[:, 0], F.softplus(self.spread(h))[:, 0]

    data = normal(seed, 24, 4), normal(seed + 1, 24)

    def loss(outputs: Pair, y: Tensor) -> Tensor:
        return F.gaussian_nll_loss(outputs[0], y, outputs[1])

    def plain(model: nn.Module, data: Pair) -> Tensor:
        mean, variance = model(data[0])
        return 0.5 * (variance.log() + (data[1] - mean) ** 2 / variance).mean()

    return Case(stir(Two(), seed), loss, data, plain, options={"batch_size": 7})


# ---------------------------------------------------------------------- losses of a batch, not of a sample


def of_batches(value: Any, size: int) -> Any:
    """A loss of whole batches: the mean over the batches, each as much as it has samples."""

    def plain(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
        parts = list(cuts(data, size))
        return sum(value(model, part) * len(part[0]) for part in parts) / len(data[0])

    return plain


@case("simclr", "contrastive", "one encoder, two views", "NT-Xent in the batch", "(a, b), forward=")
def _simclr(seed: int) -> Case:
    """Chen et al. 2020, eq. 1."""

    def views(model: Any, batch: Pair) -> tuple[Pair, None]:
        return (model(batch[0]), model(batch[1])), None

    def loss(outputs: Pair, _: None) -> Tensor:
        z = F.normalize(torch.cat(outputs), dim=1)
        n = len(z) // 2
        scores = (z @ z.T / 0.5).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
        return F.cross_entropy(scores, (torch.arange(2 * n) + n) % (2 * n))

    def by_hand(model: nn.Module, part: Pair) -> Tensor:
        z = [row / row.norm() for row in torch.cat([model(part[0]), model(part[1])])]
        n, total = len(z) // 2, 0.0
        for i, row in enumerate(z):
            others = torch.stack([torch.dot(row, z[j]) / 0.5 for j in range(2 * n) if j != i])
            total = total + torch.logsumexp(others, 0) - torch.dot(row, z[(i + n) % (2 * n)]) / 0.5
        return total / (2 * n)

    data = normal(seed, 16, 5), normal(seed + 1, 16, 5)
    return Case(stir(mlp(5, 10, 4), seed), loss, data, of_batches(by_hand, 8),
                options={"forward": views, "batch_size": 8})  # fmt: skip


@case("in-batch negatives", "contrastive", "two towers", "cross-entropy over the batch", "(query, document), forward=")
def _towers(seed: int) -> Case:
    model = nn.ModuleDict({"query": mlp(3, 8, 4), "document": mlp(5, 8, 4)})

    def scores(model: Any, batch: Pair) -> Pair:
        made = model["query"](batch[0]) @ model["document"](batch[1]).T
        return made, torch.arange(len(made))

    def by_hand(model: Any, part: Pair) -> Tensor:
        own = []
        documents = [model["document"](row) for row in part[1]]
        for i, row in enumerate(part[0]):
            query = model["query"](row)
            own.append(negative_log_likelihood(torch.stack([query @ d for d in documents]), torch.tensor(i)))
        return torch.stack(own).mean()

    data = normal(seed, 18, 3), normal(seed + 1, 18, 5)
    return Case(stir(model, seed), "cross_entropy", data, of_batches(by_hand, 6),
                options={"forward": scores, "batch_size": 6})  # fmt: skip


@case("triplets", "contrastive", "one encoder, three inputs", "triplet margin", "(a, p, n), forward=")
def _triplets(seed: int) -> Case:
    def three(model: Any, batch: tuple[Tensor, ...]) -> tuple[Any, None]:
        return tuple(model(part) for part in batch), None

    loss = nn.TripletMarginLoss(margin=1.5)

    def plain(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
        a, p, n = (model(part) for part in data)
        near, far = (a - p + 1e-6).square().sum(1).sqrt(), (a - n + 1e-6).square().sum(1).sqrt()
        return (near - far + 1.5).clamp(min=0).mean()

    data = tuple(normal(seed + i, 18, 5) for i in range(3))
    return Case(stir(mlp(5, 10, 4), seed), lambda outputs, _: loss(*outputs), data, plain,
                options={"forward": three, "batch_size": 6})  # fmt: skip


@case("dice", "contrastive", "convolutions", "soft Dice over the batch")
def _dice(seed: int) -> Case:
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 3, padding=1))
    data = normal(seed, 12, 1, 6, 6), classes(seed, 2, 12, 1, 6, 6).float()

    def dice(outputs: Tensor, masks: Tensor) -> Tensor:
        p = outputs.sigmoid()
        return 1 - 2 * (p * masks).sum() / (p.sum() + masks.sum())

    def by_hand(model: nn.Module, part: Pair) -> Tensor:
        p = torch.cat([1 / (1 + (-model(image[None])).exp()) for image in part[0]])
        return 1 - (2 * p[part[1] == 1]).sum() / (p.sum() + float(part[1].sum()))

    return Case(stir(model, seed), dice, data, of_batches(by_hand, 4), options={"batch_size": 4})


@case("cox", "contrastive", "survival", "Cox partial likelihood over the batch", "(x, [time, event])")
def _cox(seed: int) -> Case:
    """Cox 1972: -mean over events of (risk - log sum of exp(risk) of those still there)."""
    data = normal(seed, 24, 4), torch.stack([uniform(seed, 24), (uniform(seed + 1, 24) < 0.7).float()], 1)

    def partial_likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
        order = targets[:, 0].argsort(descending=True)
        risk, event = outputs[order, 0], targets[order, 1]
        return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum()

    def by_hand(model: nn.Module, part: Pair) -> Tensor:
        risk, own = model(part[0])[:, 0], []
        for i, (time, event) in enumerate(part[1]):
            if event:
                own.append(torch.logsumexp(risk[part[1][:, 0] >= time], 0) - risk[i])
        return torch.stack(own).mean()

    return Case(stir(mlp(4, 8, 1), seed), partial_likelihood, data, of_batches(by_hand, 12),
                options={"batch_size": 12})  # fmt: skip


# ---------------------------------------------------------------------- several outputs, several targets


@case("multi-task", "several outputs", "one body, two heads", "cross-entropy and mean squared error of a dict",
      "list of dicts, forward=")  # fmt: skip
def _multi_task(seed: int) -> Case:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.size = mlp(4, 8, 8), nn.Linear(8, 3), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = torch.tanh(self.body(x))
            return {"kind": self.kind(h), "size": self.size(h).squeeze(1)}

    batches = [
        {"x": normal(seed + i, n, 4), "kind": classes(seed + i, 3, n), "size": normal(seed + 9 + i, n), "name": "batch"}
        for i, n in enumerate((6, 6, 4))
    ]

    def loss(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs["kind"], batch["kind"]) + 0.5 * F.mse_loss(outputs["size"], batch["size"])

    def plain(model: nn.Module, batches: list[Any]) -> Tensor:
        own = []
        for batch in batches:
            made = model(batch["x"])
            wrong = negative_log_likelihood(made["kind"], batch["kind"])
            own.append(wrong + 0.5 * (made["size"] - batch["size"]) ** 2)
        return torch.cat(own).mean()

    options = {"forward": lambda model, batch: (model(batch["x"]), batch)}
    return Case(stir(Heads(), seed), loss, batches, plain, options=options)


@case("detector", "several outputs", "convolutions, a box and a class a cell", "classes and boxes of cells",
      "list of tuples, targets concatenated")  # fmt: skip
def _detector(seed: int) -> Case:
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3 + 4, 3, padding=1))
    batches = []
    for i in range(3):
        cells = torch.stack([torch.arange(4).repeat_interleave(2), classes(seed + i, 6, 8), classes(seed + i, 5, 8)], 1)
        batches.append((normal(seed + i, 4, 1, 6, 6), cells, classes(seed + 2 + i, 3, 8), uniform(seed + i, 8, 4)))

    def at_cells(model: Any, batch: tuple[Tensor, ...]) -> tuple[Tensor, Pair]:
        images, cells, labels, boxes = batch
        return model(images)[cells[:, 0], :, cells[:, 1], cells[:, 2]], (labels, boxes)

    def loss(outputs: Tensor, targets: Pair) -> Tensor:
        return F.cross_entropy(outputs[:, :3], targets[0]) + F.smooth_l1_loss(outputs[:, 3:], targets[1])

    def plain(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> Tensor:
        own = []
        for images, cells, labels, boxes in batches:
            for (i, row, column), label, box in zip(cells.tolist(), labels, boxes, strict=True):
                made = model(images[i : i + 1])[0, :, row, column]
                off = (made[3:] - box).abs()
                smooth = torch.where(off < 1, off**2 / 2, off - 0.5).mean()
                own.append(negative_log_likelihood(made[:3], label) + smooth)
        return torch.stack(own).mean()

    return Case(stir(model, seed), loss, batches, plain, options={"forward": at_cells})


@case("ctc", "several outputs", "GRU", "CTC of concatenated targets", "list of tuples, targets concatenated")
def _ctc(seed: int) -> Case:
    from real_vision import ctc_log_likelihood

    class Listener(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0]).log_softmax(-1)

    batches = []
    for i in range(3):
        lengths = classes(seed + i, 3, 4) + 1
        symbols = classes(seed + i, 5, int(lengths.sum())) + 1
        batches.append((normal(seed + i, 4, 9, 4), symbols, torch.full((4,), 9), lengths))
    loss = nn.CTCLoss()

    def listened(model: Any, batch: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
        return model(batch[0]).transpose(0, 1), batch[1:]

    def plain(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> Tensor:
        own = []
        for sounds, symbols, _, lengths in batches:
            for sound, word in zip(sounds, symbols.split(lengths.tolist()), strict=True):
                own.append(-ctc_log_likelihood(model(sound[None])[0], word) / len(word))
        return torch.stack(own).mean()

    return Case(stir(Listener(), seed), lambda outputs, targets: loss(outputs, *targets), batches, plain,
                options={"forward": listened})  # fmt: skip


# ---------------------------------------------------------------------- reinforcement


@case("policy gradient", "reinforcement", "policy and value", "clipped policy gradient, value and entropy",
      "dict of tensors, forward=")  # fmt: skip
def _policy(seed: int) -> Case:
    """Schulman et al. 2017, eqs. 7 and 9."""
    model = nn.ModuleDict({"body": mlp(4, 10, 8), "policy": nn.Linear(8, 3), "value": nn.Linear(8, 1)})
    data = {
        "state": normal(seed, 24, 4), "action": classes(seed, 3, 24), "advantage": normal(seed + 1, 24),
        "returns": normal(seed + 2, 24), "old": -1.1 + 0.2 * normal(seed + 3, 24),
    }  # fmt: skip

    def acted(model: Any, batch: dict[str, Tensor]) -> tuple[Pair, dict[str, Tensor]]:
        h = torch.tanh(model["body"](batch["state"]))
        return (model["policy"](h).log_softmax(1), model["value"](h)[:, 0]), batch

    def loss(outputs: Pair, batch: dict[str, Tensor]) -> Tensor:
        scores, value = outputs
        ratio = (scores.gather(1, batch["action"][:, None])[:, 0] - batch["old"]).exp()
        clipped = torch.min(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"])
        entropy = -(scores.exp() * scores).sum(1)
        return (-clipped + 0.5 * (value - batch["returns"]) ** 2 - 0.01 * entropy).mean()

    def plain(model: Any, data: dict[str, Tensor]) -> Tensor:
        total = 0.0
        for i in range(24):
            h = torch.tanh(model["body"](data["state"][i]))
            policy = torch.distributions.Categorical(logits=model["policy"](h))
            ratio = torch.exp(policy.log_prob(data["action"][i]) - data["old"][i])
            a = data["advantage"][i]
            least = torch.minimum(ratio * a, torch.clip(ratio, 0.8, 1.2) * a)
            total = total - least + 0.5 * (model["value"](h)[0] - data["returns"][i]) ** 2 - 0.01 * policy.entropy()
        return total / 24

    return Case(stir(model, seed), loss, data, plain, options={"forward": acted, "batch_size": 7})


@case("dqn", "reinforcement", "dueling network and a target network that is held", "temporal difference, Huber",
      "(s, a, r, s', end), forward=")  # fmt: skip
def _dqn(seed: int) -> Case:
    online = stir(mlp(4, 10, 3), seed)
    target = stir(mlp(4, 10, 3), seed + 1).requires_grad_(False)
    data = (
        normal(seed, 25, 4), classes(seed, 3, 25), normal(seed + 1, 25), normal(seed + 2, 25, 4),
        (uniform(seed, 25) < 0.2).float(),
    )  # fmt: skip
    model = nn.ModuleDict({"online": online, "target": target}).eval()

    def step(model: Any, batch: tuple[Tensor, ...]) -> Pair:
        state, action, reward, following, end = batch
        best = model["online"](following).argmax(1)
        later = model["target"](following).gather(1, best[:, None])[:, 0]
        return model["online"](state).gather(1, action[:, None])[:, 0], (reward + 0.9 * (1 - end) * later).detach()

    def plain(model: Any, data: tuple[Tensor, ...]) -> Tensor:
        own = []
        for state, action, reward, following, end in zip(*data, strict=True):
            best = int(model["online"](following).argmax())
            wanted = (reward + 0.9 * (1 - end) * model["target"](following)[best]).detach()
            off = (model["online"](state)[action] - wanted).abs()
            own.append(off**2 / 2 if off < 1 else off - 0.5)
        return torch.stack(own).mean()

    return Case(model, nn.HuberLoss(), data, plain,
                options={"forward": step, "batch_size": 8, "params": "online.*"})  # fmt: skip
