"""How much of Li et al. 2018 can be done in the time there is: reckoned from what a step and a point take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lossnav.errors import OptionError

BATCH = 128
TRAINING, PLANES, LATER = 0.55, 0.35, 0.85  # parts of the time that is left; machines change their speed
ENDING = 40.0  # seconds for test errors, pictures and the report

OTHER_SEEDS = (1, 2)  # beyond the first seed: of the planes that say what the choice of directions does
COARSE = 11  # points a side of those
IMAGES = 500  # a plane is measured on, where time is short

_SIDES = (51, 41, 31, 21, 11)  # of the plane that is drawn; each holds the coarse one
_LEAST_IMAGES = 100
_PASSES = 10  # where time is short: over as many images as it allows


@dataclass(frozen=True)
class Scale:
    """How much is done: None where the time that is left decides.

    Attributes
    ----------
    depth : int
    minutes : float or None
        None: no limit.
    device : str
    passes, samples : int or None
        Of a training, over the first so many images.
    side, images : int or None
        Points along each axis of the plane that is drawn, and how many of the images it is measured on.
    """

    depth: int
    minutes: float | None
    device: str
    passes: int | None = None
    samples: int | None = None
    side: int | None = None
    images: int | None = None

    def require_sensible(self) -> None:
        """Raise OptionError if a number cannot be meant."""
        least = {"passes": 1, "samples": 2, "side": 3, "images": 2}
        for name, at_least in least.items():
            value = getattr(self, name)
            if value is not None and value < at_least:
                raise OptionError(f"{name}={value} is too small. Use {at_least} or more.")
        if self.side is not None and self.side > COARSE and (self.side - 1) % (COARSE - 1):
            raise OptionError(
                f"side={self.side} does not hold a grid of {COARSE}. Use at most {COARSE}, or 21, 31, 41, 51."
            )
        if self.minutes is not None and not self.minutes > 0:
            raise OptionError(f"minutes={self.minutes} is no time. Use 20.")


SCALES = {
    "small": Scale(20, 20.0, "cpu"),
    "full": Scale(56, None, "cuda", passes=300, samples=50_000, side=51, images=50_000),
}


def training_that_fits(size: Scale, batches: float, available: int) -> tuple[int, int]:
    """Return how many passes over how many images can be had for so many batches a network.

    Ten passes over as many images as that allows; more passes where it allows all of them. Few passes over many images
    would end far from a minimum, and a minimum is what the plane is drawn around.
    """
    samples, passes = size.samples, size.passes
    if samples is None:
        affordable = batches * BATCH / (passes or _PASSES)
        samples = available if affordable >= available else max(1, int(affordable / BATCH)) * BATCH
    samples = min(samples, available)
    if passes is None:
        passes = max(1, int(batches / batches_of(samples)))
    return passes, samples


def batches_of(samples: int) -> int:
    """Batches of one pass."""
    return math.ceil(samples / BATCH)


def planes_that_fit(size: Scale, seconds: float, point: float, samples: int) -> tuple[int, int]:
    """Return points a side and images: the finest grid that can be had on 500 images, then as many images as it can.

    Parameters
    ----------
    size : Scale
    seconds : float
        For all planes of both networks.
    point : float
        Seconds a point takes for each image.
    samples : int
        That the networks are trained on: there are no more images.
    """
    images = min(size.images or IMAGES, samples)
    fitting = (side for side in _SIDES if points(side) * images * point <= seconds)
    side = size.side or next(fitting, min(_SIDES))
    if size.images is None:
        affordable = max(seconds, 0.0) / (points(side) * point)
        images = samples if affordable > samples else max(min(_LEAST_IMAGES, samples), int(affordable))
    return side, images


def planes() -> int:
    """How many planes there are, of both networks."""
    return 2 * (1 + len(OTHER_SEEDS))


def points(side: int) -> int:
    """How many points all planes have."""
    return 2 * (side**2 + len(OTHER_SEEDS) * min(side, COARSE) ** 2)


def in_minutes(seconds: float) -> str:
    """A time in words."""
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
