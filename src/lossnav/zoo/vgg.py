"""The nine-layer VGG of Li et al. 2018."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from lossnav._utils import random_state
from lossnav.zoo.models import initialize

_STAGES = ((64, 64), (128, 128), (256, 256, 256))  # filters of 3x3; a stage ends in 2x2 max-pooling


class VGG9(nn.Module):
    """Seven 3x3 convolutions (64, 64, 128, 128, 256, 256, 256) in three stages, then dense layers of 256 and 10.

    The first seven convolutions of VGG-16 and two dense layers, BatchNorm and relu after each except the last,
    max-pooling after each stage; 2,789,706 parameters. Names are those of the paper's code: ``features.0``, ``fc.0``,
    ``classifier``. Takes images of shape (n, 3, 32, 32), returns logits of shape (n, 10).

    References
    ----------
    Li et al. 2018, section 5: "a 9-layer VGG network with batch normalization".
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in _STAGES:
            for before, outputs in pairwise((inputs, *stage)):
                layers += [nn.Conv2d(before, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            inputs = stage[-1]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Sequential(nn.Linear(inputs * 4 * 4, inputs), nn.BatchNorm1d(inputs), nn.ReLU())
        self.classifier = nn.Linear(inputs, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (n, 10)."""
        logits: Tensor = self.classifier(self.fc(self.features(images).flatten(1)))
        return logits


def vgg9(seed: int = 0) -> VGG9:
    """Build the VGG-9 with random initial weights; the global random state is not changed."""
    with random_state.preserved(seed):
        model = VGG9()
        initialize(model)
    return model
