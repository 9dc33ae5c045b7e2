"""Directions in weight space, as values that carry the recipe by which they were made."""

from lossnav.directions.base import Direction, cosines
from lossnav.directions.between_points import between, through
from lossnav.directions.components import Components, pca
from lossnav.directions.derivatives import gradient, hessian
from lossnav.directions.drawn import random
from lossnav.directions.normalize import filter_normalize, layer_normalize, weight_normalize
from lossnav.directions.optimizer_state import moments
from lossnav.directions.registry import DirectionKind, kinds, register

__all__ = [
    "Components",
    "Direction",
    "DirectionKind",
    "between",
    "cosines",
    "filter_normalize",
    "gradient",
    "hessian",
    "kinds",
    "layer_normalize",
    "moments",
    "pca",
    "random",
    "register",
    "through",
    "weight_normalize",
]
