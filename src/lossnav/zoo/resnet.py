"""Residual networks for CIFAR of any depth and width, with or without shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lossnav._utils import random_state
from lossnav.errors import OptionError
from lossnav.zoo.models import initialize


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm, with or without a shortcut.

    y = relu(bn2(conv2(relu(bn1(conv1(x))))) + s(x)), where s is an option-A shortcut, which has no parameters: every
    second pixel where the block has stride 2, and zeros for the channels that the input lacks, half of them before
    and half behind. Without a shortcut s(x) is left out.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    stride : 1 or 2
    skip : bool
        Whether there is a shortcut.

    References
    ----------
    He, Zhang, Ren, Sun 2016, "Deep Residual Learning for Image Recognition", sections 3.3 and 4.2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, skip: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip, self.stride, self.lacking = skip, stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x) if self.skip else out)

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the input in the shape of the output, (n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.lacking:
            before = self.lacking // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.lacking - before))
        return x

    def extra_repr(self) -> str:
        """Show the shortcut in the repr, so that a network without shortcuts has another fingerprint."""
        return f"skip={self.skip}"


class ResNet(nn.Module):
    """ResNet of 6n + 2 layers for images of 32x32: a convolution, three stages of n blocks, a linear layer.

    The stages have 16, 32 and 64 channels (times `width`) on 32, 16 and 8 pixels a side. Names are those of the public
    checkpoints: ``conv1``, ``bn1``, ``layer1.0.conv1``, ..., ``linear``. Networks with and without shortcuts have the
    same parameters, so that one seed draws the same direction for both before it is normalised.

    Parameters
    ----------
    depth : int
        8, 14, 20, ..., 56, ..., 110, ...
    width : int
        Factor of the number of filters.
    skip : bool
        Whether the blocks have shortcuts.

    Raises
    ------
    OptionError
        If the depth is not 6n + 2, or the width below 1.

    References
    ----------
    He et al. 2016, section 4.2; Zagoruyko & Komodakis 2016 for the width (but our first convolution is as wide as the
    first stage, as in the code of Li et al. 2018). Departure from that code: its two shortcuts that change shape are
    1x1 convolutions with BatchNorm (option B), ours have no parameters (option A).
    """

    def __init__(self, depth: int, width: int = 1, skip: bool = True) -> None:
        super().__init__()
        n, left = divmod(depth - 2, 6)
        if n < 1 or left:
            raise OptionError(f"depth must be 6n + 2, got {depth}. Use 20, 56, 110 or {6 * max(n, 1) + 2}.")
        if width < 1:
            raise OptionError(f"width must be at least 1, got {width}. Use 1, 2, 4 or 8.")
        channels = [16 * width, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1, self.layer2, self.layer3 = (
            _stage(inputs, outputs, stride, n, skip)
            for inputs, outputs, stride in zip(channels, channels[1:], (1, 2, 2), strict=False)
        )
        self.linear = nn.Linear(channels[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (n, 10) of images of shape (n, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, stride: int, n: int, skip: bool) -> nn.Sequential:
    first = Block(inputs, outputs, stride, skip)
    return nn.Sequential(first, *(Block(outputs, outputs, 1, skip) for _ in range(n - 1)))


def resnet(depth: int, *, width: int = 1, skip: bool = True, seed: int = 0) -> ResNet:
    """Build a ResNet for CIFAR with random initial weights; see `ResNet` and `initialize`.

    Parameters
    ----------
    depth, width, skip
        As in `ResNet`.
    seed : int
        Seed of the initial weights; the global random state is not changed.

    Examples
    --------
    >>> sum(p.numel() for p in resnet(20).parameters())
    269722
    """
    with random_state.preserved(seed):
        model = ResNet(depth, width, skip)
        initialize(model)
    return model
