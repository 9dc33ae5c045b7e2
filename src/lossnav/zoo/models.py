"""The seed notebook's network, and the initial values of the others."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossnav._utils import random_state


class NotebookCNN(nn.Module):
    """Conv(2x2, 1->16, relu), max-pool, Conv(2x2, 16->8, relu), max-pool, Linear(288->10); 3,490 parameters.

    Takes images of shape (n, 1, 28, 28) in [0, 1], returns logits of shape (n, 10). The notebook applies a softmax
    and takes the cross-entropy of that; the cross-entropy of the logits is the same number, without overflow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 2)  # 28 -> 27, pooled to 13
        self.conv2 = nn.Conv2d(16, 8, 2)  # 13 -> 12, pooled to 6
        self.dense = nn.Linear(288, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (n, 10)."""
        hidden = F.max_pool2d(F.relu(self.conv1(images)), 2)
        hidden = F.max_pool2d(F.relu(self.conv2(hidden)), 2)
        logits: Tensor = self.dense(hidden.flatten(1))
        return logits


def notebook_cnn(seed: int = 0) -> NotebookCNN:
    """Build the notebook's network with Flux's initial values: Glorot uniform weights, zero biases.

    Parameters
    ----------
    seed : int
        Seed of the initial weights; the global random state is not changed.

    Returns
    -------
    NotebookCNN
        With channels-last convolutions, which remove most of max-pooling's cost on the CPU.

    References
    ----------
    Glorot & Bengio 2010, eq. 16.
    """
    with random_state.preserved(seed):
        model = NotebookCNN()
        for layer in (model.conv1, model.conv2, model.dense):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(cast(Tensor, layer.bias), 0.0)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def initialize(model: nn.Module) -> None:
    """Draw the initial weights of a network for CIFAR from torch's global generator, in place.

    Convolutions: normal with variance 2 / fan-in. Linear layers: normal with standard deviation 0.001. Biases zero,
    BatchNorm 1 and 0.

    References
    ----------
    He et al. 2015, "Delving Deep into Rectifiers", eq. 10, for the convolutions; all as in the code of Li et al. 2018.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1e-3)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
