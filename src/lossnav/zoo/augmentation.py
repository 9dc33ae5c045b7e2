"""Augmentation of images during training: random crops and flips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def crop_and_flip(
    images: Tensor, generator: torch.Generator, *, padding: int = 4, black: Sequence[float] = (0.0,)
) -> Tensor:
    """Pad every image, crop a window of the original size, and flip it horizontally with probability 1/2.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
        Not changed.
    generator : torch.Generator
        On the CPU: a seed gives the same draws for every device.
    padding : int
        Pixels on each side; the window has one of (2 * padding + 1)^2 equally likely positions.
    black : sequence of float
        The padding value, one per channel or one for all (`Data.black`).

    Returns
    -------
    Tensor of shape (n, channels, height, width)

    References
    ----------
    He et al. 2016, section 4.2; also used by Li et al. 2018.

    Examples
    --------
    >>> crop_and_flip(torch.ones(2, 3, 8, 8), torch.Generator().manual_seed(0), padding=0).mean()
    tensor(1.)
    """
    n, channels, height, width = images.shape
    padded = images.new_empty(n, channels, height + 2 * padding, width + 2 * padding)
    padded[:] = images.new_tensor(black).reshape(-1, 1, 1)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    top, left = torch.randint(2 * padding + 1, (2, n, 1), generator=generator)
    mirrored = torch.randint(2, (n, 1), generator=generator).bool()
    rows = top + torch.arange(height)  # (n, height)
    columns = left + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))  # (n, width)
    rows, columns, each = (index.to(images.device) for index in (rows, columns, torch.arange(n)))
    cut = padded[each[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (n, height, width, channels)
    return cut.permute(0, 3, 1, 2)
