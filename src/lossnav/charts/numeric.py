"""Numerical derivatives and projection of a map from a few coordinates to weights, from its values in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav.params import Params

Array = NDArray[np.float64]
WeightMap = Callable[[Array], Params]

_FIRST_STEP, _SECOND_STEP = 1e-5, 1e-3  # of finite differences in float64, in units of the coordinates
_STARTS = np.linspace(-1.0, 2.0, 7)  # grid along each coordinate, on which the search for a closest point starts
_ROUNDS = 50


def tangents(precise: WeightMap, coords: ArrayLike) -> tuple[Params, ...]:
    """Return d map / d x_i at some coordinates, by central differences, accurate to about ten digits."""
    at = np.asarray(coords, np.float64).reshape(-1)
    pairs = [(precise(at + step), precise(at - step)) for step in _FIRST_STEP * np.eye(len(at))]
    return tuple({name: (a[name] - b[name]) / (2 * _FIRST_STEP) for name in a} for a, b in pairs)


def bending(precise: WeightMap, coords: ArrayLike, covector: Mapping[str, Tensor]) -> Array:
    """Return covector . d^2 map / d x_i d x_j, shape (k, k), by central differences, accurate to about six digits."""
    at = np.asarray(coords, np.float64).reshape(-1)
    k, steps = len(at), _SECOND_STEP * np.eye(len(at))
    made = np.zeros((k, k))
    names = list(covector)
    flat = torch.cat([covector[name].double().reshape(-1) for name in names])

    def height(x: Array) -> float:
        point = precise(x)
        return float(torch.dot(flat, torch.cat([point[name].reshape(-1) for name in names])))

    for i in range(k):
        for j in range(i + 1):
            a, b = steps[i], steps[j]
            bend = height(at + a + b) - height(at + a - b) - height(at - a + b) + height(at - a - b)
            made[i, j] = made[j, i] = bend / (4 * _SECOND_STEP**2)
    return made


def closest(precise: WeightMap, k: int, params: Mapping[str, Tensor]) -> tuple[Array, float]:
    """Return the coordinates of a point of the map that is close to a point of weight space, and the distance.

    Levenberg-Marquardt from the closest point of a coarse grid over [-1, 2]^k. The result is a local minimum of the
    distance; another branch of the map may be closer.
    """
    target = {name: tensor.detach().double() for name, tensor in params.items()}

    def offset(x: Array) -> Params:
        return algebra.subtract(target, precise(x))

    starts = np.stack(np.meshgrid(*[_STARTS] * k, indexing="ij"), axis=-1).reshape(-1, k)
    lengths = [algebra.norm(offset(start)) for start in starts]
    at = starts[int(np.nanargmin(lengths))]
    left, damping = offset(at), 1e-3
    length = algebra.norm(left)
    for _ in range(_ROUNDS):
        along = tangents(precise, at)
        gram = np.array([[algebra.dot(a, b) for b in along] for a in along])
        pull = np.array([algebra.dot(a, left) for a in along])
        while damping < 1e12:
            step = np.linalg.solve(gram + damping * np.diag(gram.diagonal() + 1e-300), pull)
            there = offset(at + step)
            if (new := algebra.norm(there)) <= length:
                break
            damping *= 10
        else:
            break
        done = np.abs(step).max() <= 1e-12 * (1 + np.abs(at).max())
        at, left, length, damping = at + step, there, new, damping / 10
        if done:
            break
    return at, length


def signature(precise: WeightMap, k: int) -> list[float | None]:
    """Return numbers that distinguish different maps: at three places the norm, and a product with a fixed cosine.

    They are None where the map is not defined, or not finite.
    """
    made: list[float | None] = []
    for j in range(3):
        at = np.array([(0.381966 * (j + 1) + 0.236068 * i) % 1.0 for i in range(k)])
        try:
            point = precise(at)
        except Exception:  # outside the domain of a user's chart
            made += [None, None]
            continue
        waves = (_wave(point[name], i) for i, name in enumerate(sorted(point)))
        numbers = [algebra.norm(point), sum(waves)]
        made += [number if np.isfinite(number) else None for number in numbers]
    return made


def _wave(tensor: Tensor, phase: int) -> float:
    """Return the product of a tensor's entries with a cosine."""
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().double().reshape(-1)
    return float(torch.dot(flat, torch.cos(torch.arange(len(flat), dtype=torch.float64, device=flat.device) + phase)))
