"""Networks by hand: recurrent, graphs, attention, tied, normalised, generative, scientific."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from real_case import Case, case, classes, negative_log_likelihood, normal, stir
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lossnav as ln

Pair = tuple[Tensor, Tensor]


def mean_cross_entropy(model: nn.Module, data: Pair) -> Tensor:
    return negative_log_likelihood(model(data[0]), data[1]).mean()


def share_right(model: nn.Module, data: Pair) -> float:
    return float((model(data[0]).argmax(-1) == data[1]).double().mean())


def squared(model: nn.Module, data: Pair) -> Tensor:
    return (model(data[0]) - data[1]).square().mean()


def mlp(*sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


# ---------------------------------------------------------------------- recurrent


class PackedLstm(nn.Module):
    """Bidirectional, two layers, over packed sequences; the state after the last step of each is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.rnn = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.rnn(packed)
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1))


@case("lstm, packed", "recurrent", "bidirectional LSTM over packed sequences", "cross-entropy", "(ids, lengths, y)")
def _packed_lstm(seed: int) -> Case:
    lengths = classes(seed, 5, 22) + 2
    ids = (classes(seed, 19, 22, 6) + 1) * (torch.arange(6) < lengths[:, None])
    data = ids, lengths, classes(seed + 1, 3, 22)

    def plain(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
        own = []
        for row, length, target in zip(*data, strict=True):  # one at a time, with nothing packed
            _, (hidden, _) = model.rnn(model.embed(row[None, : int(length)]))
            own.append(negative_log_likelihood(model.head(torch.cat([hidden[-2], hidden[-1]], 1)), target[None]))
        return torch.cat(own).mean()

    def accuracy(model: nn.Module, data: tuple[Tensor, ...]) -> float:
        return float((model(*data[:2]).argmax(1) == data[2]).double().mean())

    return Case(stir(PackedLstm(), seed), "cross_entropy", data, plain, accuracy, {"batch_size": 7})


class LanguageGru(nn.Module):
    """Next symbols; the embedding is the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 20)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0]).transpose(1, 2)


@case("gru, tied", "recurrent", "GRU whose embedding is its head", "cross-entropy of symbols")
def _tied_gru(seed: int) -> Case:
    ids = classes(seed, 20, 15, 7)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        return negative_log_likelihood(model(data[0]).transpose(1, 2), data[1]).mean()

    def accuracy(model: nn.Module, data: Pair) -> float:
        return float((model(data[0]).argmax(1) == data[1]).double().mean())

    return Case(stir(LanguageGru(), seed), "cross_entropy", (ids[:, :-1], ids[:, 1:]), plain, accuracy,
                {"batch_size": 4})  # fmt: skip


class PackedGru(nn.Module):
    """Takes a PackedSequence as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 6)
        self.head = nn.Linear(6, 1)

    def forward(self, packed: Any) -> Tensor:
        return self.head(self.rnn(packed)[1][-1]).squeeze(1)


@case("gru, PackedSequence", "recurrent", "GRU", "mean squared error", "list of (PackedSequence, y)")
def _packed_batches(seed: int) -> Case:
    batches = []
    for i, size in enumerate((4, 4, 3)):
        lengths = (classes(seed + i, 4, size) + 2).sort(descending=True).values
        packed = pack_padded_sequence(normal(seed + i, int(lengths[0]), size, 3), lengths)
        batches.append((packed, normal(seed + i + 9, size)))

    def plain(model: nn.Module, batches: list[Any]) -> Tensor:
        own = []
        for packed, targets in batches:
            rows, lengths = pad_packed_sequence(packed)
            for i, length in enumerate(lengths):
                state = model.rnn(rows[: int(length), i : i + 1])[1][-1]
                own.append((model.head(state).reshape(()) - targets[i]).square())
        return torch.stack(own).mean()

    return Case(stir(PackedGru(), seed), "mse", batches, plain)


class LstmCell(nn.Module):
    """A cell in a loop with layer norm, as one writes it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm, self.head = nn.LSTMCell(3, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
            h = self.norm(h)
        return self.head(h)


@case("lstm cell", "recurrent", "LSTMCell in a loop, LayerNorm", "cross-entropy with smoothed labels")
def _cell(seed: int) -> Case:
    data = normal(seed, 17, 5, 3), classes(seed, 4, 17)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        scores = model(data[0]).log_softmax(-1)
        soft = 0.9 * F.one_hot(data[1], 4) + 0.1 / 4
        return -(soft * scores).sum(-1).mean()

    return Case(stir(LstmCell(), seed), nn.CrossEntropyLoss(label_smoothing=0.1), data, plain, share_right,
                {"batch_size": 6})  # fmt: skip


# ---------------------------------------------------------------------- graphs


class Gcn(nn.Module):
    """Kipf and Welling 2017, over dense adjacencies."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        a = adjacency + torch.eye(adjacency.shape[-1], dtype=x.dtype)
        scale = a.sum(-1).rsqrt()
        a = scale[..., :, None] * a * scale[..., None, :]
        return (a @ self.second(torch.relu(a @ self.first(x)))).mean(-2)


@case("gcn, dense", "graph", "graph convolutions over dense adjacencies", "cross-entropy of graphs", "(x, a, y)")
def _gcn(seed: int) -> Case:
    upper = (torch.rand(14, 5, 5, generator=torch.Generator().manual_seed(seed)) < 0.4).float().triu(1)
    data = normal(seed, 14, 5, 4), upper + upper.transpose(1, 2), classes(seed, 3, 14)

    def plain(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
        own = []
        for x, a, y in zip(*data, strict=True):
            own.append(negative_log_likelihood(model(x, a), y))
        return torch.stack(own).mean()

    def accuracy(model: nn.Module, data: tuple[Tensor, ...]) -> float:
        return float((model(*data[:2]).argmax(1) == data[2]).double().mean())

    return Case(stir(Gcn(), seed), "cross_entropy", data, plain, accuracy, {"batch_size": 5})


class Graphs:
    """Several graphs as one, as graph libraries keep them: nodes, edges, and which graph a node is of."""

    def __init__(self, x: Tensor, edge_index: Tensor, batch: Tensor, y: Tensor) -> None:
        self.x, self.edge_index, self.batch, self.y = x, edge_index, batch, y

    def to(self, device: Any) -> Graphs:
        for key, value in vars(self).items():
            setattr(self, key, value.to(device))
        return self

    @property
    def num_graphs(self) -> int:
        return len(self.y)


class Gat(nn.Module):
    """Veličković et al. 2018, one head, over a list of edges."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score, self.head = nn.Linear(4, 8), nn.Linear(16, 1), nn.Linear(8, 3)

    def forward(self, graphs: Graphs) -> Tensor:
        return self.head(pooled(self.nodes(graphs.x, graphs.edge_index), graphs.batch, graphs.num_graphs))

    def nodes(self, x: Tensor, edges: Tensor) -> Tensor:
        h, (source, target) = self.embed(x), edges
        weights = F.leaky_relu(self.score(torch.cat([h[source], h[target]], 1))).exp()
        total = weights.new_zeros(len(h), 1).index_add(0, target, weights)
        return torch.relu(h + h.new_zeros(h.shape).index_add(0, target, weights * h[source]) / (total[:] + 1e-6))


def pooled(x: Tensor, batch: Tensor, n: int) -> Tensor:
    counts = torch.bincount(batch, minlength=n).to(x.dtype)
    return x.new_zeros(n, x.shape[1]).index_add(0, batch, x) / counts[:, None]


def some_graphs(seed: int, count: int) -> Graphs:
    sizes = classes(seed, 4, count) + 3
    xs, edges, owners, start = [], [], [], 0
    for i, size in enumerate(sizes.tolist()):
        xs.append(normal(seed * 31 + i, size, 4))
        edges.append(classes(seed * 37 + i, size, 2, 2 * size) + start)
        owners.append(torch.full((size,), i))
        start += size
    return Graphs(torch.cat(xs), torch.cat(edges, 1), torch.cat(owners), classes(seed + 5, 3, count))


@case("gat, edges", "graph", "graph attention over a list of edges", "cross-entropy of graphs",
      "list of objects with .to")  # fmt: skip
def _gat(seed: int) -> Case:
    batches = [some_graphs(seed + i, count) for i, count in enumerate((4, 4, 2))]

    def plain(model: nn.Module, batches: list[Graphs]) -> Tensor:
        own = []
        for graphs in batches:
            for i, y in enumerate(graphs.y):  # one graph at a time
                mine = graphs.batch == i
                first = int(mine.nonzero()[0])
                edges = graphs.edge_index[:, mine[graphs.edge_index[1]]] - first
                own.append(negative_log_likelihood(model.head(model.nodes(graphs.x[mine], edges).mean(0)), y))
        return torch.stack(own).mean()

    def accuracy(model: nn.Module, batches: list[Graphs]) -> float:
        right = sum(int((model(graphs).argmax(1) == graphs.y).sum()) for graphs in batches)
        return right / sum(graphs.num_graphs for graphs in batches)

    options = {"forward": lambda model, graphs: (model(graphs), graphs.y)}
    return Case(stir(Gat(), seed), "cross_entropy", batches, plain, accuracy, options)


@case("graphs, targets a node", "graph", "graph attention over a list of edges", "mean squared error of nodes",
      "list of objects with .to, count='targets'")  # fmt: skip
def _node_targets(seed: int) -> Case:
    """The mean over the nodes, of which a graph has more or fewer."""
    batches = [some_graphs(seed + i, count) for i, count in enumerate((4, 3, 2))]
    for i, graphs in enumerate(batches):
        graphs.y = normal(seed + 50 + i, len(graphs.x), 8)

    def plain(model: Any, batches: list[Graphs]) -> Tensor:
        off = [(model.nodes(graphs.x, graphs.edge_index) - graphs.y).square() for graphs in batches]
        return torch.cat(off).mean()

    class Nodes(Gat):
        def forward(self, graphs: Graphs) -> Tensor:
            return self.nodes(graphs.x, graphs.edge_index)

    options = {"forward": lambda model, graphs: (model(graphs), graphs.y), "count": "targets"}
    return Case(stir(Nodes(), seed), "mse", batches, plain, options=options)


@case("gcn, nodes", "graph", "graph convolutions, one graph", "cross-entropy of some nodes", "list of one dict")
def _nodes(seed: int) -> Case:
    """Transductive: the whole graph is one batch; the loss is over the nodes of the training mask."""
    n = 12
    upper = (torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < 0.3).float().triu(1)
    batch = {"x": normal(seed, n, 4), "a": upper + upper.T, "y": classes(seed, 3, n), "mask": torch.arange(n) % 3 > 0}

    class Nodes(Gcn):
        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            a = adjacency + torch.eye(adjacency.shape[-1], dtype=x.dtype)
            a = a / a.sum(1, keepdim=True)
            return a @ self.second(torch.relu(a @ self.first(x)))

    def of_mask(model: Any, batch: dict[str, Tensor]) -> Pair:
        return model(batch["x"], batch["a"])[batch["mask"]], batch["y"][batch["mask"]]

    def plain(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
        (graph,) = batches
        a = graph["a"] + torch.eye(n, dtype=graph["x"].dtype)
        own = []
        for i in range(n):
            if graph["mask"][i]:
                hidden = torch.relu(torch.stack([(a[j] / a[j].sum()) @ model.first(graph["x"]) for j in range(n)]))
                own.append(negative_log_likelihood((a[i] / a[i].sum()) @ model.second(hidden), graph["y"][i]))
        return torch.stack(own).mean()

    def accuracy(model: nn.Module, batches: list[dict[str, Tensor]]) -> float:
        (graph,) = batches
        return float((model(graph["x"], graph["a"]).argmax(1) == graph["y"])[graph["mask"]].double().mean())

    return Case(stir(Nodes(), seed), "cross_entropy", [batch], plain, accuracy, {"forward": of_mask})


# ---------------------------------------------------------------------- attention


class Translator(nn.Module):
    """nn.Transformer with causal and padding masks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16, padding_idx=0)
        self.places = nn.Parameter(torch.randn(8, 16))
        self.transformer = nn.Transformer(16, 2, 1, 1, 24, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=self.places.dtype)
        made = self.transformer(
            self.embed(source) + self.places[: source.shape[1]],
            self.embed(target) + self.places[: target.shape[1]],
            tgt_mask=mask,
            src_key_padding_mask=torch.zeros_like(source, dtype=mask.dtype).masked_fill(source == 0, -math.inf),
            memory_key_padding_mask=torch.zeros_like(source, dtype=mask.dtype).masked_fill(source == 0, -math.inf),
        )
        return self.head(made).transpose(1, 2)


@case("nn.Transformer", "attention", "nn.Transformer with causal and padding masks",
      "cross-entropy of symbols, padding 0 ignored", "(source, target, y)")  # fmt: skip
def _translator(seed: int) -> Case:
    lengths, ends = classes(seed, 4, 16) + 3, classes(seed + 1, 4, 16) + 2
    source = (classes(seed, 19, 16, 6) + 1) * (torch.arange(6) < lengths[:, None])
    target = classes(seed + 2, 19, 16, 6) + 1
    wanted = target[:, 1:] * (torch.arange(5) < ends[:, None])
    data = source, target[:, :-1], wanted

    def plain(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
        total, count = 0.0, 0
        for source, given, wanted in zip(*data, strict=True):
            logits = model(source[source != 0][None], given[None])[0].T
            total = total + negative_log_likelihood(logits[wanted != 0], wanted[wanted != 0]).sum()
            count += int((wanted != 0).sum())
        return total / count

    def accuracy(model: nn.Module, data: tuple[Tensor, ...]) -> float:
        valid = data[2] != 0
        return float((model(data[0], data[1]).argmax(1) == data[2])[valid].double().mean())

    loss = nn.CrossEntropyLoss(ignore_index=0)
    return Case(stir(Translator(), seed), loss, data, plain, accuracy, {"batch_size": 5})


class MaskedAttention(nn.Module):
    """nn.MultiheadAttention with a boolean mask of keys and its weights asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend, self.head = nn.Linear(3, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 1)

    def forward(self, x: Tensor, empty: Tensor) -> Tensor:
        h = self.embed(x).transpose(0, 1)
        made, weights = self.attend(h, h, h, key_padding_mask=empty, need_weights=True)
        made = made.transpose(0, 1).masked_fill(empty[..., None], 0.0).sum(1) / (~empty).sum(1, keepdim=True)
        return self.head(made).squeeze(1) + 0.1 * weights.square().sum((1, 2))


@case("attention, masked", "attention", "nn.MultiheadAttention with masked keys", "Huber", "(x, mask, y)")
def _masked_attention(seed: int) -> Case:
    empty = torch.arange(6) >= (classes(seed, 5, 18) + 2)[:, None]
    data = normal(seed, 18, 6, 3), empty, 2 * normal(seed + 1, 18)

    def plain(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
        off = (model(data[0], data[1]) - data[2]).abs()
        return torch.where(off < 0.7, off.square() / 2, 0.7 * (off - 0.35)).mean()

    return Case(stir(MaskedAttention(), seed), nn.HuberLoss(delta=0.7), data, plain, options={"batch_size": 5})


@case("encoder layers", "attention", "nn.TransformerEncoder in train mode with dropout",
      "cross-entropy", "(x, y) tensors")  # fmt: skip
def _encoder_layers(seed: int) -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(32, 3))
    model = stir(model, seed).train()
    data = normal(seed, 19, 4, 3), classes(seed, 3, 19)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        return mean_cross_entropy(model.eval(), data)

    return Case(model, "cross_entropy", data, plain, lambda model, data: share_right(model.eval(), data),
                {"batch_size": 8}, warns=ln.errors.TrainModeWarning)  # fmt: skip


# ---------------------------------------------------------------------- weights that are shared or computed


class FixedPoint(nn.Module):
    """A deep equilibrium: thirty steps of one contracting layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(8, 8, bias=False), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = u = self.outer(x)
        for _ in range(30):
            z = torch.tanh(0.4 * self.inner(z) + u)
        return self.head(z)


@case("fixed point", "shared weights", "deep equilibrium of one layer, thirty steps", "mean squared error")
def _fixed_point(seed: int) -> Case:
    data = normal(seed, 21, 4), normal(seed + 1, 21, 2)
    return Case(stir(FixedPoint(), seed), "mse", data, squared, options={"batch_size": 8})


class Hyper(nn.Module):
    """A network that makes the weights of another from a task's code."""

    def __init__(self) -> None:
        super().__init__()
        self.make = mlp(2, 8, 4 * 3 + 3)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        made = self.make(code)
        weight, bias = made[:, :12].reshape(-1, 3, 4), made[:, 12:]
        return torch.einsum("noi,ni->no", weight, x) + bias


@case("hypernetwork", "shared weights", "hypernetwork", "mean squared error", "(x, code, y)")
def _hyper(seed: int) -> Case:
    data = normal(seed, 20, 4), normal(seed + 1, 20, 2), normal(seed + 2, 20, 3)

    def plain(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
        own = []
        for x, code, y in zip(*data, strict=True):
            made = model.make(code)
            own.append((made[:12].reshape(3, 4) @ x + made[12:] - y).square().mean())
        return torch.stack(own).mean()

    return Case(stir(Hyper(), seed), "mse", data, plain, options={"batch_size": 6})


@case("siamese", "shared weights", "one encoder, two inputs", "cosine embedding", "(a, b, y), forward=")
def _siamese(seed: int) -> Case:
    data = normal(seed, 18, 5), normal(seed + 1, 18, 5), (2 * classes(seed, 2, 18) - 1).float()

    def pairs(model: Any, batch: tuple[Tensor, ...]) -> tuple[Any, Tensor]:
        return (model(batch[0]), model(batch[1])), batch[2]

    loss = nn.CosineEmbeddingLoss(margin=0.2)

    def plain(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
        a, b = model(data[0]), model(data[1])
        cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        return torch.where(data[2] > 0, 1 - cosine, (cosine - 0.2).clamp(min=0)).mean()

    return Case(stir(mlp(5, 12, 6), seed), lambda outputs, y: loss(*outputs, y), data, plain,
                options={"forward": pairs, "batch_size": 6})  # fmt: skip


@case("weight norm", "shared weights", "weight_norm, old and by parametrization", "cross-entropy")
def _weight_norm(seed: int) -> Case:
    from torch.nn.utils import parametrizations, weight_norm

    model = nn.Sequential(
        weight_norm(nn.Linear(4, 8)), nn.Tanh(), parametrizations.weight_norm(nn.Linear(8, 8)), nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(8, 3), dim=1),
    )  # fmt: skip
    data = normal(seed, 20, 4), classes(seed, 3, 20)

    def layer(x: Tensor, v: Tensor, g: Tensor, bias: Tensor, axis: int) -> Tensor:
        return x @ (g * v / v.norm(dim=axis, keepdim=True)).T + bias

    def plain(model: Any, data: Pair) -> Tensor:
        first, second, third = model[0], model[2], model[4]
        h = torch.tanh(layer(data[0], first.weight_v, first.weight_g, first.bias, 1))
        g, v = second.parametrizations.weight.original0, second.parametrizations.weight.original1
        h = torch.tanh(layer(h, v, g, second.bias, 1))
        g, v = third.parametrizations.weight.original0, third.parametrizations.weight.original1
        return negative_log_likelihood(layer(h, v, g, third.bias, 0), data[1]).mean()

    return Case(stir(model, seed), "cross_entropy", data, plain, None, {"batch_size": 7})


@case("spectral norm", "shared weights", "spectral_norm by parametrization", "cross-entropy")
def _spectral_norm(seed: int) -> Case:
    from torch.nn.utils.parametrizations import spectral_norm

    model = nn.Sequential(spectral_norm(nn.Linear(4, 8)), nn.Tanh(), spectral_norm(nn.Linear(8, 3)))
    data = normal(seed, 20, 4), classes(seed, 3, 20)

    def plain(model: Any, data: Pair) -> Tensor:
        x = data[0]
        for layer in (model[0], model[2]):
            weight, norm = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
            x = x @ (weight / (norm._u @ weight @ norm._v)).T + layer.bias
            x = x if layer is model[2] else torch.tanh(x)
        return negative_log_likelihood(x, data[1]).mean()

    return Case(stir(model, seed), "cross_entropy", data, plain, share_right, {"batch_size": 7})


@case("orthogonal", "shared weights", "orthogonal parametrization", "mean squared error")
def _orthogonal(seed: int) -> Case:
    from torch.nn.utils.parametrizations import orthogonal

    model = nn.Sequential(orthogonal(nn.Linear(4, 4, bias=False), orthogonal_map="cayley"), nn.Linear(4, 2))
    data = normal(seed, 16, 4), normal(seed + 1, 16, 2)
    return Case(stir(model, seed), "mse", data, squared, options={"batch_size": 5})


# ---------------------------------------------------------------------- generative


class Vae(nn.Module):
    """Draws its latent by the global generator, in float32 whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp(6, 12, 4), mlp(2, 12, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x).chunk(2, 1)
        noise = torch.randn(mean.shape, dtype=torch.float32).to(x.dtype)
        return self.decode(mean + (log_variance / 2).exp() * noise), mean, log_variance


@case("vae", "generative", "variational autoencoder, random", "reconstruction and Kullback-Leibler, one value a sample",
      "tensor, forward=")  # fmt: skip
def _vae(seed: int) -> Case:
    def loss(outputs: tuple[Tensor, ...], x: Tensor) -> Tensor:
        made, mean, log_variance = outputs
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (made - x).square().sum(1) + divergence

    def plain(model: Any, x: Tensor) -> Tensor:
        total = 0.0
        for start in range(0, len(x), 6):  # noise is drawn a batch at a time
            part = x[start : start + 6]
            mean, log_variance = model.encode(part).split(2, dim=1)
            noise = torch.randn(len(part), 2).to(x.dtype)
            made = model.decode(mean + torch.sqrt(log_variance.exp()) * noise)
            gaussian = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
            to_standard = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0))
            total = total + (made - part).square().sum() + to_standard.sum()
        return total / len(x)

    options = {"forward": lambda model, x: (model(x), x), "reduction": "none", "batch_size": 6, "seed": 17}
    return Case(stir(Vae(), seed), loss, normal(seed, 20, 6), plain, None, options)


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(5, 16, 4, activation=nn.SiLU)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([x, t[:, None]], 1))


@case("diffusion", "generative", "denoiser at random times", "mean squared error of the noise", "tensor, forward=")
def _diffusion(seed: int) -> Case:
    def noised(model: Any, x: Tensor) -> Pair:
        t = torch.rand(len(x), dtype=torch.float32).to(x.dtype)
        noise = torch.randn(x.shape, dtype=torch.float32).to(x.dtype)
        scale = torch.cos(math.pi / 2 * t)[:, None]
        return model(scale * x + (1 - scale**2).sqrt() * noise, t), noise

    def plain(model: nn.Module, x: Tensor) -> Tensor:
        total = 0.0
        for start in range(0, len(x), 8):
            part = x[start : start + 8]
            t, noise = torch.rand(len(part)).to(x.dtype), torch.randn(part.shape).to(x.dtype)
            a, b = torch.cos(math.pi / 2 * t)[:, None], torch.sin(math.pi / 2 * t)[:, None]
            total = total + (model(a * part + b * noise, t) - noise).square().sum()
        return total / x.numel()

    options = {"forward": noised, "batch_size": 8, "seed": 4}
    return Case(stir(Denoiser(), seed), "mse", normal(seed, 27, 4), plain, None, options)


class Coupling(nn.Module):
    """RealNVP (Dinh et al. 2017), two couplings: the log-density of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp(2, 8, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        a, b, volume = x[:, :2], x[:, 2:], 0.0
        for net in self.nets:
            scale, shift = net(a).chunk(2, 1)
            a, b, volume = b * torch.tanh(scale).exp() + shift, a, volume + torch.tanh(scale).sum(1)
        z = torch.cat([a, b], 1)
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1) + volume


@case("normalising flow", "generative", "RealNVP, two couplings", "negative log-likelihood, one value a sample",
      "tensor, forward=")  # fmt: skip
def _flow(seed: int) -> Case:
    def plain(model: Any, x: Tensor) -> Tensor:
        """By the determinant of the Jacobian itself."""
        own = []
        for row in x:

            def mapped(y: Tensor) -> Tensor:
                a, b = y[:2], y[2:]
                for net in model.nets:
                    made = net(a)
                    a, b = b * torch.tanh(made[:2]).exp() + made[2:], a
                return torch.cat([a, b])

            jacobian = torch.func.jacrev(mapped)(row)
            z = mapped(row)
            own.append(0.5 * z.square().sum() + 2 * math.log(2 * math.pi) - torch.linalg.det(jacobian).abs().log())
        return torch.stack(own).mean()

    options = {"forward": lambda model, x: (model(x), x), "reduction": "none", "batch_size": 5}
    return Case(stir(Coupling(), seed), lambda outputs, x: -outputs, normal(seed, 14, 4), plain, None, options)


@case("gan discriminator", "generative", "generator and discriminator in one module", "non-saturating",
      "tensor, forward=")  # fmt: skip
def _gan(seed: int) -> Case:
    model = nn.ModuleDict({"generator": mlp(3, 8, 4), "discriminator": mlp(4, 8, 1)})

    def both(model: Any, batch: Pair) -> tuple[Any, None]:
        return (model["discriminator"](batch[0]), model["discriminator"](model["generator"](batch[1]))), None

    def loss(outputs: Pair, _: None) -> Tensor:
        return F.softplus(-outputs[0]).mean() + F.softplus(outputs[1]).mean()

    def plain(model: Any, data: Pair) -> Tensor:
        real = model["discriminator"](data[0]).sigmoid()
        made = model["discriminator"](model["generator"](data[1])).sigmoid()
        return -(real.log() + (1 - made).log()).mean()

    return Case(stir(model, seed), loss, (normal(seed, 12, 4), normal(seed + 1, 12, 3)), plain, None,
                {"forward": both, "batch_size": 4})  # fmt: skip


# ---------------------------------------------------------------------- scientific


class Heat(nn.Module):
    """u(x, t) by a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2, 10, 10, 1)

    def forward(self, points: Tensor) -> Tensor:
        return self.net(points)


def heat_residual(u: Any, points: Tensor) -> Tensor:
    """u_t - 0.1 u_xx at each point, shape (n,); as one writes it, by columns that ask for gradients."""
    x, t = points[:, :1].requires_grad_(True), points[:, 1:].requires_grad_(True)
    value = u(torch.cat([x, t], 1))
    u_x, u_t = torch.autograd.grad(value.sum(), (x, t), create_graph=True)
    u_xx = torch.autograd.grad(u_x.sum(), x, create_graph=True)[0]
    return (u_t - 0.1 * u_xx).squeeze(1)


def heat_by_hand(model: nn.Module, points: Tensor) -> Tensor:
    """The same by forward differentiation, one point at a time."""
    own = []
    for point in points:

        def u(x: Tensor, t: Tensor) -> Tensor:
            return model(torch.stack([x, t])[None])[0, 0]

        u_t = torch.func.jacrev(u, 1)(*point)
        u_xx = torch.func.jacrev(torch.func.jacrev(u))(*point)
        own.append((u_t - 0.1 * u_xx).square())
    return torch.stack(own).mean()


@case("pinn, forward=", "scientific", "heat equation, derivatives by the inputs", "mean squared residual",
      "tensor, forward=")  # fmt: skip
def _pinn_forward(seed: int) -> Case:
    def residual(model: Any, points: Tensor) -> Pair:
        made = heat_residual(model, points)
        return made, torch.zeros_like(made)

    return Case(stir(Heat(), seed), "mse", normal(seed, 13, 2), heat_by_hand, None,
                {"forward": residual, "batch_size": 5})  # fmt: skip


class HeatLoss(Heat):
    """Gives its own loss."""

    def forward(self, points: Tensor) -> Tensor:
        return heat_residual(self.net, points).square().mean()


@case("pinn, loss=None", "scientific", "heat equation, derivatives by the inputs", "the model's own", "tensor")
def _pinn_own(seed: int) -> Case:
    def plain(model: Any, points: Tensor) -> Tensor:
        return heat_by_hand(model.net, points)

    return Case(stir(HeatLoss(), seed), None, normal(seed, 12, 2), plain, None, {"batch_size": 4})


class Energy(nn.Module):
    """Energies of configurations of four atoms, and the forces on them: minus the derivative by their places."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = mlp(1, 8, 1)

    def forward(self, places: Tensor) -> Pair:
        places.requires_grad_(True)
        i, j = torch.triu_indices(4, 4, 1)
        distances = (places[:, i] - places[:, j]).norm(dim=2, keepdim=True)
        energy = self.pair(distances).sum((1, 2))
        (slope,) = torch.autograd.grad(energy.sum(), places, create_graph=self.training or energy.requires_grad)
        return energy, -slope


@case("energy and forces", "scientific", "energies of atoms, forces by differentiation", "energies and forces",
      "(places, energies, forces), forward=")  # fmt: skip
def _forces(seed: int) -> Case:
    data = normal(seed, 14, 4, 3), normal(seed + 1, 14), normal(seed + 2, 14, 4, 3)

    def loss(outputs: Pair, targets: Pair) -> Tensor:
        return F.mse_loss(outputs[0], targets[0]) + 0.1 * F.mse_loss(outputs[1], targets[1])

    def plain(model: Any, data: tuple[Tensor, ...]) -> Tensor:
        """The forces by the chain rule, pair by pair."""
        energies, forces = [], []
        for places in data[0]:
            energy, force = 0.0, [0.0] * 4
            for i in range(4):
                for j in range(i + 1, 4):
                    apart = (places[i] - places[j]).norm()
                    value, slope = torch.func.jvp(model.pair, (apart[None],), (torch.ones_like(apart[None]),))
                    pull = slope[0] * (places[i] - places[j]) / apart
                    energy, force[i], force[j] = energy + value[0], force[i] - pull, force[j] + pull
            energies.append(energy)
            forces.append(torch.stack(force))
        off = (torch.stack(energies) - data[1]).square().mean(), (torch.stack(forces) - data[2]).square().mean()
        return off[0] + 0.1 * off[1]

    options = {"forward": lambda model, batch: (model(batch[0]), batch[1:]), "batch_size": 5}
    return Case(stir(Energy(), seed), loss, data, plain, options=options)


@case("pinn, from_function", "scientific", "heat equation, derivatives by the inputs", "a function of parameters",
      "tensor")  # fmt: skip
def _pinn_function(seed: int) -> Case:
    model = stir(Heat(), seed)

    def objective(case: Case) -> ln.Objective:
        def loss(params: dict[str, Tensor], points: Tensor) -> Tensor:
            return heat_residual(lambda x: functional_call(model, params, (x,)), points).square()

        return ln.Objective.from_function(loss, dict(model.named_parameters()), case.data, reduction="none",
                                          batch_size=5)  # fmt: skip

    return Case(model, None, normal(seed, 12, 2), heat_by_hand, objective=objective)


class Field(nn.Module):
    """A neural ordinary differential equation, ten steps of Euler."""

    def __init__(self) -> None:
        super().__init__()
        self.field = mlp(3, 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(10):
            x = x + 0.1 * self.field(x)
        return x


@case("neural ode", "scientific", "neural ordinary differential equation, Euler steps", "mean absolute error")
def _ode(seed: int) -> Case:
    data = normal(seed, 18, 3), normal(seed + 1, 18, 3)

    def plain(model: nn.Module, data: Pair) -> Tensor:
        return (model(data[0]) - data[1]).abs().mean()

    return Case(stir(Field(), seed), "l1", data, plain, None, {"batch_size": 7})


class Spike(torch.autograd.Function):
    """A step, with the derivative of a fast sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return given / (1 + 5 * x.abs()) ** 2


class Spiking(nn.Module):
    """Leaky integrate and fire for eight steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        charge, total = x.new_zeros(len(x), 12), 0.0
        for _ in range(8):
            charge = 0.8 * charge + self.first(x)
            spikes = Spike.apply(charge - 1.0)
            charge = charge - spikes
            total = total + self.head(spikes)
        return total / 8


@case("spiking", "scientific", "integrate and fire with a surrogate gradient", "cross-entropy")
def _spiking(seed: int) -> Case:
    data = normal(seed, 25, 4), classes(seed, 3, 25)
    return Case(stir(Spiking(), seed), "cross_entropy", data, mean_cross_entropy, share_right, {"batch_size": 9})


class Waves(nn.Module):
    """A Fourier layer: complex weights, stored as real tensors, on the lowest modes."""

    def __init__(self) -> None:
        super().__init__()
        self.modes = nn.Parameter(0.3 * torch.randn(4, 2))
        self.head = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)
        low = spectrum[:, :4] * torch.view_as_complex(self.modes)
        return self.head(torch.fft.irfft(F.pad(low, (0, 3)), n=12))


@case("fourier layer", "scientific", "complex weights stored as real tensors", "mean squared error")
def _fourier(seed: int) -> Case:
    data = normal(seed, 15, 12), normal(seed + 1, 15, 12)

    def plain(model: Any, data: Pair) -> Tensor:
        n = torch.arange(12)
        angle = -2 * math.pi * torch.outer(n, torch.arange(4)).to(data[0].dtype) / 12
        re, im = data[0] @ torch.cos(angle), data[0] @ torch.sin(angle)
        a, b = model.modes[:, 0], model.modes[:, 1]
        re, im = re * a - im * b, re * b + im * a
        twice = torch.tensor([1.0, 2.0, 2.0, 2.0], dtype=re.dtype)
        back = ((re * twice) @ torch.cos(angle).T + (im * twice) @ torch.sin(angle).T) / 12
        return (model.head(back) - data[1]).square().mean()

    return Case(stir(Waves(), seed), "mse", data, plain, None, {"batch_size": 4})


class Complex(nn.Module):
    """Complex parameters, which are held still, beside real ones that move."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(5, dtype=torch.complex64))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=8))


@case("complex parameters", "scientific", "complex parameters held still", "cross-entropy")
def _complex(seed: int) -> Case:
    data = normal(seed, 16, 8), classes(seed, 3, 16)
    return Case(stir(Complex(), seed), "cross_entropy", data, mean_cross_entropy, share_right, {"batch_size": 6},
                warns=ln.errors.LossnavWarning)  # fmt: skip
