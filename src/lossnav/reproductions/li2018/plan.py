"""Plan of a reproduction of Li et al. 2018 within a time limit, from the durations of a step and a point."""

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
    """Size of a reproduction: None is chosen to fit the remaining time.

    Attributes
    ----------
    depth : int
    minutes : float or None
        None: no limit.
    device : str
    passes, samples : int or None
        Passes of a training, and number of its images.
    side, images : int or None
        Points along each axis of the drawn plane, and the number of its images.
    """

    depth: int
    minutes: float | None
    device: str
    passes: int | None = None
    samples: int | None = None
    side: int | None = None
    images: int | None = None

    def require_sensible(self) -> None:
        """Raise OptionError if a number is out of range."""
        least = {"passes": 1, "samples": 2, "side": 3, "images": 2}
        for name, at_least in least.items():
            value = getattr(self, name)
            if value is not None and value < at_least:
                raise OptionError(f"{name} must be at least {at_least}, got {value}.")
        if self.side is not None and self.side > COARSE and (self.side - 1) % (COARSE - 1):
            raise OptionError(
                f"side must be at most {COARSE}, or 21, 31, 41, ..., to contain a grid of {COARSE}, got {self.side}."
            )
        if self.minutes is not None and not self.minutes > 0:
            raise OptionError(f"minutes must be positive, got {self.minutes}. Use 20.")


SCALES = {
    "small": Scale(20, 20.0, "cpu"),
    "full": Scale(56, None, "cuda", passes=300, samples=50_000, side=51, images=50_000),
}


def training_that_fits(size: Scale, batches: float, available: int) -> tuple[int, int]:
    """Return the numbers of passes and images for a given number of batches per network.

    Ten passes over as many images as possible, and more passes if all images fit. Few passes over many images would
    end far from a minimum, but the plane is drawn around a minimum.
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
    """Return points per side and images: the finest grid that fits on 500 images, then as many images as fit.

    Parameters
    ----------
    size : Scale
    seconds : float
        For all planes of both networks.
    point : float
        Seconds per point and image.
    samples : int
        Number of training samples, the upper limit of the images.
    """
    images = min(size.images or IMAGES, samples)
    fitting = (side for side in _SIDES if points(side) * images * point <= seconds)
    side = size.side or next(fitting, min(_SIDES))
    if size.images is None:
        affordable = max(seconds, 0.0) / (points(side) * point)
        images = samples if affordable > samples else max(min(_LEAST_IMAGES, samples), int(affordable))
    return side, images


def planes() -> int:
    """Number of planes of both networks."""
    return 2 * (1 + len(OTHER_SEEDS))


def points(side: int) -> int:
    """Number of points of all planes."""
    return 2 * (side**2 + len(OTHER_SEEDS) * min(side, COARSE) ** 2)


def in_minutes(seconds: float) -> str:
    """Format a duration."""
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
