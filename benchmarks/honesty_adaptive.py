"""Whether `Adaptive` claims what it has not seen: estimated beside true errors, on functions drawn from a seed.

A case is a kind of function on [-1, 1] or [-1, 1]²: smooth bowls (benign), and bowls with sums of sines (periods from
an eighth of the range up; also 16 to 64 rad a unit: *fast*), ReLU kinks, wells exp(-(r/w)²) of w ≥ 0.1, steps, curved
narrow valleys, all of these mixed; steps at even places, cusps |x|^p (p 0.3 to 0.9), cones of radius 0.12 to 0.3,
*tips* r^p (p 0.5 to 1), up or down, drawn out by up to five, and *creases* that end (a roof over a stretch of a line);
noise of 0.1 to 10 % that is drawn anew at every evaluation, everywhere or in a ball of radius 0.25 to 0.6 (*regional*),
noise of 1e-7 to 1e-6 of an offset, and NaN in 10 to 40 % of evaluations. The true error is
the largest relative error of the interpolated loss over 2,001 places of a line or 121x121 of a plane. *Covered*: the
estimated error is at least half the true one. *Warned*: cells are unresolved, or noise is named. For noise the truth
is the function without it, and only naming it counts as honest.

`missed` counts the draws that are neither covered nor warned of; `points` is the median of points used, `most` the
largest; `ratio` the fifth percentile of estimated error / true error over draws without a warning.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lossnav as ln
from lossnav._utils.interpolation import Interpolant

Array = NDArray[np.float64]
Function = Callable[[Array], Array]  # places (m, k) -> losses (m,)

_SIDES = {1: 2001, 2: 121}  # of the grid on which the true error is taken
_SHARES = {
    "steps": 4,
    "valley": 4,
    "noise": 1,
    "even steps": 4,
    "cusps": 2,
    "cones": 2,
    "tips": 2,
    "creases": 2,
    "fast sines": 2,
    "regional noise": 2,
    "nan": 2,
}  # so many times fewer draws: these take up to 2,000 points each


def rows(seed: int, draws: int) -> Iterator[dict[str, Any]]:
    """One row a case: case, benign, draws, covered, warned, honest, and what the module says."""
    for k, shape in ((1, "line"), (2, "plane")):
        for kind in KINDS[k]:
            count = draws if draws < 20 else max(20, draws // _SHARES.get(kind, 1))
            yield _row(f"{shape}: {kind}", kind, k, seed, count)


def _row(case: str, kind: str, k: int, seed: int, draws: int) -> dict[str, Any]:
    found = [judge(kind, k, seed, draw) for draw in range(draws)]
    noisy = kind in _NOISY
    covered = [one["estimated"] >= one["true"] / 2 for one in found]
    warned = [one["noise"] if noisy else one["noise"] or one["unresolved"] > 0 for one in found]
    if kind == "even steps":  # a deterministic loss that is called noisy is no honest warning
        warned = [one["unresolved"] > 0 and not one["noise"] for one in found]
    honest = [w or (c and not noisy) for c, w in zip(covered, warned, strict=True)]
    plain = [one["estimated"] / max(one["true"], 1e-12) for one, w in zip(found, warned, strict=True) if not w]
    return {
        "case": case,
        "benign": kind == "bowl",
        "draws": draws,
        "covered": float(np.mean(covered)),
        "warned": float(np.mean(warned)),
        "honest": float(np.mean(honest)),
        "missed": draws - sum(honest),
        "points": float(np.median([one["points"] for one in found])),
        "most": max(one["points"] for one in found),
        "ratio": float(np.quantile(plain, 0.05)) if plain else math.nan,
    }


def judge(kind: str, k: int, seed: int, draw: int) -> dict[str, Any]:
    """Run `Adaptive` on one function: what it says, and the true error."""
    random = np.random.default_rng([seed, k, zlib.crc32(kind.encode()), draw])
    truth = KINDS[k][kind](random, k)
    measured = _NOISY[kind](truth, random, k) if kind in _NOISY else truth
    ends: dict[str, Any] = dict.fromkeys(("alpha", "beta")[:k], (-1, 1))
    points, losses, outcome = refine(ln.Adaptive(**ends), measured)
    axes = np.meshgrid(*[np.linspace(-1, 1, _SIDES[k])] * k, indexing="ij")
    where = np.stack([axis.reshape(-1) for axis in axes], axis=1)
    true = truth(where)
    off = np.abs(Interpolant(points, losses)(where) / true - 1)
    return {
        "points": len(points),
        "estimated": float(outcome["estimated_error"]),
        "true": float(off.max()),
        "unresolved": int(outcome["unresolved"]),
        "noise": float(outcome.get("noise", 0)) > 0 and not outcome["noise_repeats"],
    }


def refine(sampler: ln.Sampler, function: Function) -> tuple[Array, Array, dict[str, Any]]:
    """Points, losses and the outcome of a sampler on a function."""
    rounds = sampler.rounds()
    points, losses, asked = [], [], next(rounds)
    while True:
        told = function(asked)
        points.append(asked)
        losses.append(told)
        try:
            asked = rounds.send(told)
        except StopIteration as end:
            return np.concatenate(points), np.concatenate(losses), dict(end.value)


# ---------------------------------------------------------------------- functions


def _bowl(random: np.random.Generator, k: int) -> Function:
    """A quadratic bowl, tilted and skewed, that may flatten outwards."""
    center, turned = random.uniform(-0.7, 0.7, k), np.linalg.qr(random.normal(size=(k, k)))[0]
    scales, skew = np.exp(random.uniform(np.log(0.5), np.log(4), k)), random.normal(size=k)
    low, tilt, flat = random.uniform(0.2, 2), random.uniform(0, 0.3), random.uniform(0, 0.5)

    def loss(p: Array) -> Array:
        square = (((p - center) @ turned) ** 2 @ scales) * np.exp(tilt * (p @ skew))
        return np.asarray(low + square / (1 + flat * square))

    return loss


def _waves(random: np.random.Generator, k: int, rates: tuple[float, float], most: int) -> Function:
    """Up to `most` sines of 1 to 30 % of 1, of so many radians a unit."""
    count = random.integers(1, most + 1)
    ways = random.normal(size=(count, k))
    ways *= np.exp(random.uniform(math.log(rates[0]), math.log(rates[1]), (count, 1))) / np.linalg.norm(
        ways, axis=1, keepdims=True
    )
    phases, heights = random.uniform(0, 2 * np.pi, count), np.exp(random.uniform(np.log(0.01), np.log(0.3), count))
    return lambda p: np.asarray(np.sin(p @ ways.T + phases) @ heights) / count


def _sum(*parts: Function) -> Function:
    return lambda p: np.asarray(sum(part(p) for part in parts))


def _sines(random: np.random.Generator, k: int) -> Function:
    return _sum(_bowl(random, k), lambda p: np.full(len(p), 0.4), _waves(random, k, (2 * np.pi, 8 * np.pi), 3))


def _fast(random: np.random.Generator, k: int) -> Function:
    return _sum(_bowl(random, k), lambda p: np.full(len(p), 0.4), _waves(random, k, (16.0, 64.0), 1))


def _kinks(random: np.random.Generator, k: int) -> Function:
    count = random.integers(1, 5)
    ways = random.normal(size=(count, k))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    places, slopes = random.uniform(-0.8, 0.8, count), random.uniform(0.2, 2, count)
    return _sum(_bowl(random, k), lambda p: np.asarray(np.maximum(p @ ways.T - places, 0) @ slopes))


def _wells(random: np.random.Generator, k: int) -> Function:
    count = random.integers(1, 3)
    middles, widths = random.uniform(-0.95, 0.95, (count, k)), np.exp(random.uniform(np.log(0.1), np.log(0.5), count))
    depths, bowl = random.uniform(0.05, 0.4, count), _bowl(random, k)

    def loss(p: Array) -> Array:
        wells = np.exp(-((p[:, None] - middles) ** 2).sum(2) / widths**2)
        return np.asarray(bowl(p) * (1 - wells @ depths))

    return loss


def _steps(random: np.random.Generator, k: int) -> Function:
    way = random.normal(size=k)
    way /= np.linalg.norm(way)
    place, height, width = random.uniform(-0.8, 0.8), random.uniform(0.1, 1), np.exp(random.uniform(-7, -3))
    return _sum(_bowl(random, k), lambda p: np.asarray(height * (1 + np.tanh((p @ way - place) / width))))


def _valley(random: np.random.Generator, k: int) -> Function:
    """Narrow across, gentle along, and curved."""
    turned, place = np.linalg.qr(random.normal(size=(k, k)))[0], random.uniform(-0.5, 0.5)
    bend, steep = random.uniform(-1, 1), np.exp(random.uniform(np.log(20), np.log(300)))
    gentle, low = random.uniform(0.1, 1), random.uniform(0.5, 2)

    def loss(p: Array) -> Array:
        along, across = ((p @ turned).T if k == 2 else (p[:, 0] * 0, p[:, 0]))[:2]
        return np.asarray(low + gentle * along**2 + steep * (across - place - bend * along**2) ** 2)

    return loss


def _mixed(random: np.random.Generator, k: int) -> Function:
    return _sum(_sines(random, k), _kinks(random, k), _wells(random, k))


def _even_steps(random: np.random.Generator, k: int) -> Function:
    """A step at a multiple of a sixteenth of the range, across the first axis or any; its upper side has the place."""
    place, axis, height = random.integers(-7, 8) / 8, random.integers(k), random.uniform(0.1, 1)
    return _sum(_bowl(random, k), lambda p: np.where(p[:, axis] >= place, height, 0.0))


def _cusps(random: np.random.Generator, k: int) -> Function:
    way = random.normal(size=k)
    way /= np.linalg.norm(way)
    place, height = random.uniform(-0.7, 0.7), np.exp(random.uniform(np.log(0.2), np.log(2)))
    power = random.uniform(0.3, 0.9)
    return _sum(_bowl(random, k), lambda p: np.asarray(height * np.abs(p @ way - place) ** power))


def _cones(random: np.random.Generator, k: int) -> Function:
    middle, depth = random.uniform(-0.9, 0.9, k), random.uniform(0.1, 0.6)
    width, bowl = np.exp(random.uniform(np.log(0.12), np.log(0.3))), _bowl(random, k)
    return lambda p: np.asarray(bowl(p) * (1 - depth * np.maximum(0, 1 - np.linalg.norm(p - middle, axis=1) / width)))


def _dented(bowl: Function, sign: float, dent: Function, multiplies: bool) -> Function:
    """A bowl and something on it, up or down, that is a part of the loss or is added; all losses are positive."""
    if multiplies:
        return lambda p: np.asarray(bowl(p) * (1 + sign * dent(p)))
    return lambda p: np.asarray(bowl(p) + (0.6 if sign < 0 else 0.0) + sign * dent(p))


def _tips(random: np.random.Generator, k: int) -> Function:
    """Siblings of cones: a tip r^p of p from 0.5 to 1, up or down, round or drawn out, on its own or on any ground."""
    middle, depth, power = random.uniform(-0.9, 0.9, k), random.uniform(0.1, 0.6), random.uniform(0.5, 1)
    width = np.linalg.qr(random.normal(size=(k, k)))[0] * np.exp(random.uniform(np.log(0.12), np.log(0.6), k))
    inverse = np.linalg.inv(width)

    def dent(p: Array) -> Array:
        return np.asarray(depth * np.maximum(0, 1 - np.linalg.norm((p - middle) @ inverse.T, axis=1) ** power))

    return _dented(_bowl(random, k), random.choice((-1.0, 1.0)), dent, bool(random.integers(2)))


def _creases(random: np.random.Generator, k: int) -> Function:
    """A roof, up or down, over a stretch of a line: a crease that ends twice."""
    middle, way, half = random.uniform(-0.7, 0.7, k), random.normal(size=k), random.uniform(0.05, 0.4)
    way /= np.linalg.norm(way)
    depth, width = random.uniform(0.1, 0.6), np.exp(random.uniform(np.log(0.12), np.log(0.4)))

    def dent(p: Array) -> Array:
        along = np.clip((p - middle) @ way, -half, half)
        off = np.linalg.norm(p - middle - along[:, None] * way, axis=1)
        return np.asarray(depth * np.maximum(0, 1 - off / width))

    return _dented(_bowl(random, k), random.choice((-1.0, 1.0)), dent, bool(random.integers(2)))


def _noisy(function: Function, random: np.random.Generator, k: int) -> Function:
    """Every evaluation is off by a normal number of its own, of a part of the loss between 0.1 and 10 %."""
    size = np.exp(random.uniform(np.log(1e-3), np.log(0.1)))
    return lambda p: np.asarray(function(p) * np.exp(size * random.standard_normal(len(p))))


def _noisy_inside(function: Function, random: np.random.Generator, k: int) -> Function:
    middle, radius = random.uniform(-0.9, 0.9, k), random.uniform(0.25, 0.6)
    noisy = _noisy(function, random, k)
    return lambda p: np.where(np.linalg.norm(p - middle, axis=1) < radius, noisy(p), function(p))


def _noisy_offset(function: Function, random: np.random.Generator, k: int) -> Function:
    """Normal numbers of 0.1 to 1, beside a loss of a million."""
    size = random.uniform(0.1, 1)
    return lambda p: np.asarray(function(p) + size * random.standard_normal(len(p)))


def _lost(function: Function, random: np.random.Generator, k: int) -> Function:
    part = random.uniform(0.1, 0.4)
    return lambda p: np.where(random.random(len(p)) < part, np.nan, function(p))


def _offset(random: np.random.Generator, k: int) -> Function:
    return _sum(lambda p: np.full(len(p), 1e6), _bowl(random, k))


def _noise(random: np.random.Generator, k: int) -> Function:
    return (_bowl, _sines, _wells)[random.integers(3)](random, k)


_NOISY: dict[str, Callable[[Function, np.random.Generator, int], Function]] = {
    "noise": _noisy, "regional noise": _noisy_inside, "offset noise": _noisy_offset, "nan": _lost,
}  # fmt: skip
Kind = Callable[[np.random.Generator, int], Function]
_ALL: dict[str, Kind] = {
    "bowl": _bowl, "sines": _sines, "kinks": _kinks, "wells": _wells, "steps": _steps,
    "valley": _valley, "mixed": _mixed, "noise": _noise, "even steps": _even_steps,
    "cusps": _cusps, "cones": _cones, "tips": _tips, "creases": _creases,
    "regional noise": _bowl, "offset noise": _offset, "nan": _bowl, "fast sines": _fast,
}  # fmt: skip
KINDS: dict[int, dict[str, Kind]] = {1: _ALL, 2: _ALL}
