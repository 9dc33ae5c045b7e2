"""Networks small enough for a dense Hessian, and that Hessian by plain autograd in float64."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import lossnav as ln

BATCH = 10


class ConvNet(nn.Module):
    """Two convolutions with BatchNorm and a linear layer: 317 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
        self.out = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.out(torch.tanh(self.bn2(self.conv2(x))).mean((2, 3)))


def conv_net():
    torch.manual_seed(0)
    model = ConvNet()
    for _ in range(20):
        model(torch.randn(32, 1, 7, 7) * 1.5 + 0.2)  # running statistics that are neither initial nor the data's
    return model.eval()


def images(n=23):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 7, 7, generator=generator), torch.randint(0, 5, (n,), generator=generator)


def conv_outputs(model, x, bn):
    """The logits of a ConvNet as a function of its parameters, written out; batches of 10, the last one shorter."""
    eps, batches = 1e-5, [x[i : i + BATCH].double() for i in range(0, len(x), BATCH)]
    buffers = {name: tensor.double() for name, tensor in model.named_buffers()}

    def normalised(h, p, name, mean, var):
        h = (h - mean.reshape(1, -1, 1, 1)) / torch.sqrt(var.reshape(1, -1, 1, 1) + eps)
        return h * p[f"{name}.weight"].reshape(1, -1, 1, 1) + p[f"{name}.bias"].reshape(1, -1, 1, 1)

    def own(h, unbiased):
        return h.mean((0, 2, 3)), h.var((0, 2, 3), unbiased=unbiased)

    def logits(p, x, statistics):
        h1 = F.conv2d(x, p["conv1.weight"], p["conv1.bias"])
        s1 = own(h1, False) if statistics is None else statistics[0]
        h2 = F.conv2d(torch.relu(normalised(h1, p, "bn1", *s1)), p["conv2.weight"], p["conv2.bias"])
        s2 = own(h2, False) if statistics is None else statistics[1]
        h = torch.tanh(normalised(h2, p, "bn2", *s2)).mean((2, 3))
        return h @ p["out.weight"].T + p["out.bias"], (own(h1, True), own(h2, True))

    def outputs(p):
        if bn == "frozen":
            statistics = [(buffers[f"{n}.running_mean"], buffers[f"{n}.running_var"]) for n in ("bn1", "bn2")]
        elif bn == "batch":
            statistics = None
        else:
            found = [logits(p, xs, None)[1] for xs in batches]
            statistics = [
                tuple(torch.stack([batch[layer][i] for batch in found]).mean(0) for i in (0, 1)) for layer in (0, 1)
            ]
        return torch.cat([logits(p, xs, statistics)[0] for xs in batches])

    return outputs


def conv_loss(model, x, y, bn):
    """The loss of a ConvNet as a function of its parameters."""
    outputs = conv_outputs(model, x, bn)
    return lambda p: F.cross_entropy(outputs(p), y)


class Attention(nn.Module):
    """Tokens through attention of three kinds, LayerNorm, and an output tied to the embedding."""

    def __init__(self, vocabulary=11, width=8):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mha = nn.MultiheadAttention(width, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(width, 2, 12, batch_first=True, activation="gelu")
        self.head = nn.Linear(width, vocabulary)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mha(x, x, x, need_weights=False)[0]
        return self.head(self.norm2(self.layer(x))).transpose(1, 2)


def attention():
    torch.manual_seed(0)
    return Attention().eval(), torch.randint(0, 11, (5, 6))


def module_loss(model, loss_of_outputs, *inputs):
    """The loss of any module in eval mode as a function of its parameters, in float64."""
    model = model.double()

    def loss(p):
        return loss_of_outputs(functional_call(model, p, inputs))

    return loss


def dense_gauss_newton(outputs, loss_of_outputs, point):
    """J^T H J at a point, (d, d): J and H written down by plain autograd, in float64, over all the data at once."""
    point = {name: tensor.detach().double() for name, tensor in point.items()}
    sizes = [tensor.numel() for tensor in point.values()]

    def of_flat(flat):
        parts = flat.split(sizes)
        return outputs({name: part.reshape(point[name].shape) for name, part in zip(point, parts, strict=True)})

    whole = torch.cat([tensor.reshape(-1) for tensor in point.values()])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        z = of_flat(whole)
        J = torch.autograd.functional.jacobian(of_flat, whole, vectorize=True).reshape(z.numel(), -1)
    H = torch.autograd.functional.hessian(lambda flat: loss_of_outputs(flat.reshape(z.shape)), z.reshape(-1))
    return J.T @ H @ J


def dense(loss, point, names=None):
    """Loss, gradient (d,) and Hessian (d, d) at a point by plain autograd, in float64."""
    point = {name: tensor.detach().double() for name, tensor in point.items()}
    names = list(point) if names is None else list(names)
    sizes = [point[name].numel() for name in names]

    def of_flat(flat):
        parts = flat.split(sizes)
        moved = {name: part.reshape(point[name].shape) for name, part in zip(names, parts, strict=True)}
        return loss(point | moved)

    flat = torch.cat([point[name].reshape(-1) for name in names]).requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        value = of_flat(flat)
    (slope,) = torch.autograd.grad(value, flat, create_graph=True)
    each = torch.eye(len(flat), dtype=torch.float64)
    (rows,) = torch.autograd.grad(slope, flat, each, is_grads_batched=True)
    return value.item(), slope.detach(), rows


def flat(vector):
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in vector.values()])


def quadratic(matrix):
    """An objective whose Hessian is this matrix."""
    half = lambda p: 0.5 * p["x"] @ matrix @ p["x"]  # noqa: E731
    return ln.Objective.from_function(half, {"x": torch.zeros(len(matrix), dtype=torch.float64)})


class Dense(ln.curvature.Operator):
    """A matrix that is written down, as an operator of somebody else's."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype = matrix, tuple(matrix.shape), matrix.dtype

    def __matmul__(self, vectors):
        return self.matrix @ vectors


def symmetric(values, seed=0):
    """A matrix of these eigenvalues with random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    d = len(values)
    q, _ = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))
    return q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ q.T


def network_like(d=400):
    """A bulk around zero, a few outliers above it, a crowded negative edge."""
    bulk = np.random.default_rng(0).normal(size=d - 5) * 0.02
    return np.sort(np.concatenate([bulk, [10.0, 6.0, 3.0, 1.0, -0.3]]))
