"""The seed notebook's arithmetic in NumPy, written from the notebook alone and knowing nothing of lossnav.

Float64 throughout. Convolutions are cross-correlations here, as in the weights we compare with; Flux flips its kernels,
which is another name for the same network.
"""

import numpy as np


def conv_relu(x, weight, bias):
    """(n, c, h, w) with a 2x2 kernel, no padding, stride 1."""
    n, c, h, w = x.shape
    patches = np.stack([x[:, :, i : h - 1 + i, j : w - 1 + j] for i in (0, 1) for j in (0, 1)], axis=2)
    flat = patches.transpose(0, 3, 4, 1, 2).reshape(n * (h - 1) * (w - 1), c * 4)
    out = flat @ weight.reshape(weight.shape[0], -1).T + bias
    return np.maximum(out.reshape(n, h - 1, w - 1, -1).transpose(0, 3, 1, 2), 0)


def maxpool(x):
    n, c, h, w = x.shape
    return x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def logits(theta, x):
    x = maxpool(conv_relu(x, theta["conv1.weight"], theta["conv1.bias"]))
    x = maxpool(conv_relu(x, theta["conv2.weight"], theta["conv2.bias"]))
    return x.reshape(len(x), 288) @ theta["dense.weight"].T + theta["dense.bias"]


def crossentropy(theta, x, y):
    """Mean over the batch of -log softmax(m(x))[y]."""
    z = logits(theta, x)
    z = z - z.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]))


def norm(a):
    return np.sqrt((a**2).sum())


WEIGHTS = ("conv1.weight", "conv2.weight", "dense.weight")  # biases stay where they are


def perturbweights(minimal, d, t):
    """(1 - t) .* theta .+ t * norm(theta) / norm(d) .* d, for the weights."""
    moved = {l: (1 - t) * minimal[l] + t * norm(minimal[l]) / norm(d[l]) * d[l] for l in WEIGHTS}  # noqa: E741
    return {**minimal, **moved}


def pw_2d_bilinear(theta0, theta2, theta3, alpha, beta):
    moved = {}
    for l in WEIGHTS:  # noqa: E741
        phi = alpha * norm(theta3[l]) / norm(theta2[l]) * theta2[l] + (1 - alpha) * theta3[l]
        moved[l] = beta * norm(theta3[l]) / norm(theta0[l]) * theta0[l] + (1 - beta) * norm(theta3[l]) / norm(phi) * phi
    return {**theta3, **moved}
