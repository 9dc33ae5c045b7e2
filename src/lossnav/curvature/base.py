"""A symmetric matrix that is known by its products alone: what one of somebody else's gives, and how it is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from lossnav._utils.validation import described
from lossnav.errors import OptionError
from lossnav.objective.objective import Objective

V = TypeVar("V")

DIGITS = 8  # units in the last place that a product is off by: about as much was seen of networks of many kinds
UNSYMMETRIC = 1e-3  # as `asymmetry` measures it, and more than rounding


class Operator(ABC, Generic[V]):
    """A symmetric matrix of shape (d, d) that is never written down, only multiplied with.

    `trace`, `diagonal`, `top_eigenpairs` and `spectral_density` take any of these. `Hessian` and `GaussNewton` are two;
    one of your own has three members, and may have the others.

    Attributes
    ----------
    shape : tuple of two int
        (d, d).
    dtype : torch.dtype
        Of the vectors it is given, and of its arithmetic: real, floating point. By default float64.
    device : torch.device
        Of the vectors it is given. By default the CPU.
    title : str
        What it is called in messages. By default the name of its class.
    passes : int
        Over data, so far, if it goes over data. By default 0.

    Notes
    -----
    What has ``shape``, ``dtype`` and ``@`` need not be a subclass: a matrix written down (a Tensor or an ndarray), a
    SciPy ``LinearOperator`` will do. Where the ``dtype`` is NumPy's, it is given ndarrays.

    Examples
    --------
    A diagonal plus a matrix of rank one:

    >>> from lossnav.curvature import top_eigenpairs, trace
    >>> class Spiked(Operator):
    ...     def __init__(self, diagonal, u):
    ...         self.diagonal, self.u, self.shape = diagonal, u, (len(u), len(u))
    ...     def __matmul__(self, vectors):
    ...         return self.diagonal[:, None] * vectors + self.u[:, None] * (self.u @ vectors)
    >>> spiked = Spiked(torch.ones(50, dtype=torch.float64), torch.ones(50, dtype=torch.float64))
    >>> round(trace(spiked, products=60).value, 6), top_eigenpairs(spiked).values.round(6)
    (100.0, array([51.]))
    """

    shape: tuple[int, int]
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")
    title: str = ""
    passes: int = 0

    @abstractmethod
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Products with k vectors, the columns of a Tensor of shape (d, k), its dtype and device: another (d, k)."""

    def rounding(self, size: float) -> float:
        """Return what rounding may make of products with this matrix: no eigenvalue is surer than that.

        By default some digits of its numbers, times its size.

        Parameters
        ----------
        size : float
            Of the matrix: its largest eigenvalue in size, or a norm that is larger.
        """
        return DIGITS * torch.finfo(self.dtype).eps * size

    def to_flat(self, vector: V) -> Tensor:
        """From a vector as results have it to one of shape (d,), float64. By default these are the same."""
        assert isinstance(vector, Tensor)
        return vector.detach().to(self.device, torch.float64)

    def from_flat(self, flat: Tensor) -> V:
        """From a vector of shape (d,), float64, to what results have. By default the same."""
        return flat  # type: ignore[return-value]


class CheckedOperator(Operator[V]):
    """An operator as the estimates use it: its products are counted, and held against each other for symmetry.

    Attributes
    ----------
    size : int
        d.
    count : int
        Products made so far.
    """

    size: int
    count: int

    @abstractmethod
    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of a Tensor of shape (k, d), float64, as the rows of another."""

    @abstractmethod
    def require_vector(self, vector: V) -> None:
        """Raise unless a vector is one of this operator's."""


def as_operator(given: Operator[V], function: str = "This") -> CheckedOperator[V]:
    """Make what has ``shape``, ``dtype`` and ``@`` an operator that the estimates use.

    Raises
    ------
    OptionError
        If it is none, says `function`.
    """
    if isinstance(given, CheckedOperator):
        return given
    return _Given(given, function)


class _Given(CheckedOperator[V]):
    """An operator of somebody else's: what it gives is held against what it promises."""

    def __init__(self, given: Any, function: str) -> None:
        _require_members(given, function)
        self.given, self.size, self.count = given, _size_of(given), 0
        self.shape = (self.size, self.size)
        self.in_numpy = not isinstance(given.dtype, torch.dtype)
        self.dtype = _dtype_of(given, function)
        self.device = torch.device("cpu") if self.in_numpy else torch.device(getattr(given, "device", "cpu"))
        self.title = getattr(given, "title", "") or type(given).__name__
        self._symmetry = SymmetryWatch(torch.finfo(self.dtype).eps)

    @property
    def passes(self) -> int:  # type: ignore[override]
        """Over data, if the operator counts them."""
        return int(getattr(self.given, "passes", 0))

    def __matmul__(self, vectors: Tensor) -> Tensor:
        handed: Any = vectors.to(self.device, self.dtype, copy=True)  # which it may write into
        made = self.given @ (handed.cpu().numpy() if self.in_numpy else handed)
        if not isinstance(made, Tensor | np.ndarray) or tuple(made.shape) != tuple(vectors.shape):
            shape = tuple(made.shape) if hasattr(made, "shape") else type(made).__name__
            raise OptionError(
                f"{self.title} @ vectors of shape {tuple(vectors.shape)} gave {shape}. Return a Tensor of the shape of "
                "the vectors, with a product in each column."
            )
        return torch.as_tensor(made).detach().to(self.device, torch.float64)

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with some vectors; raise where two contradict each other by more than rounding."""
        self.count += len(vectors)
        images = (self @ vectors.T).T.clone(memory_format=torch.contiguous_format)  # it may return what it was given
        for vector, image in zip(vectors, images, strict=True):
            gap = self._symmetry.gap(vector, image, lambda both: (self @ both[:, None])[:, 0])
            if gap:
                raise OptionError(
                    f"{self.title} is not symmetric: u . A v and v . A u differ by {gap:.1%}. Eigenvalues, trace and "
                    "density are estimated of symmetric matrices alone. Pass (A + A.T) / 2, if that is what is meant."
                )
        return images

    def rounding(self, size: float) -> float:
        """As the operator says, and no less than was seen."""
        own = getattr(self.given, "rounding", super().rounding)
        return max(float(own(size)), self._symmetry.rounding * size)

    def to_flat(self, vector: V) -> Tensor:
        """As the operator has it."""
        return self.given.to_flat(vector) if isinstance(self.given, Operator) else super().to_flat(vector)

    def from_flat(self, flat: Tensor) -> V:
        """As the operator has it."""
        return self.given.from_flat(flat) if isinstance(self.given, Operator) else super().from_flat(flat)

    def require_vector(self, vector: V) -> None:
        """Raise OptionError for a vector of another length."""
        shape = tuple(self.to_flat(vector).shape)
        if shape != (self.size,):
            raise OptionError(f"A vector of shape {shape} is none of {self.title}, which has shape {self.shape}.")


def _require_members(given: Any, function: str) -> None:
    """Raise OptionError for what is no operator, with what to pass instead."""
    if isinstance(given, Objective):
        raise OptionError(
            f"{function} takes an operator, and was given an objective. Pass "
            "ln.curvature.Hessian(objective), or ln.curvature.GaussNewton(objective)."
        )
    if isinstance(given, type):
        raise OptionError(f"{function} takes an operator, and was given the class {given.__name__}. Pass one of it.")
    missing = [name for name in ("shape", "dtype", "__matmul__") if not hasattr(given, name)]
    if missing:
        raise OptionError(
            f"{function} takes an operator, and was given {described(given)}, which lacks {', '.join(missing)}. Pass "
            "ln.curvature.Hessian(objective), or what has shape, dtype and @ (see ln.curvature.Operator)."
        )


def _size_of(given: Any) -> int:
    """The number of rows of a square matrix."""
    shape = tuple(given.shape)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise OptionError(f"An operator is a square matrix, and this one has shape {shape}. Give it shape (d, d).")
    return int(shape[0])


def _dtype_of(given: Any, function: str) -> torch.dtype:
    """Its numbers as torch has them."""
    dtype = given.dtype
    if not isinstance(dtype, torch.dtype):
        try:
            dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        except TypeError:
            dtype = None
    if dtype is None or not dtype.is_floating_point:
        raise OptionError(
            f"{function} takes an operator of real numbers, and dtype={given.dtype!r} is of others. Use torch.float64 "
            "or torch.float32; of a matrix of integers pass matrix.double()."
        )
    return dtype  # type: ignore[no-any-return]


# ---------------------------------------------------------------------- symmetry


class SymmetryWatch:
    """Whether products contradict each other: each is held against the one before, without a product of its own.

    Attributes
    ----------
    rounding : float
        The largest gap that was looked at closer, as a part of a product.
    """

    def __init__(self, eps: float) -> None:
        self.rounding = 0.0
        self._last: tuple[Tensor, Tensor] | None = None  # a vector and its product
        self._allowed = max(1e-9, 1e3 * eps)

    def gap(self, vector: Tensor, product: Tensor, multiply: Callable[[Tensor], Tensor]) -> float:
        """Return how unsymmetric a product and the one before it are, beyond rounding; 0 where they are not."""
        last, self._last = self._last, (vector, product)
        if last is None or not bool(torch.isfinite(product).all() and torch.isfinite(last[1]).all()):
            return 0.0
        gap = asymmetry(*last, vector, product)
        if gap <= self._allowed:
            return 0.0
        self._allowed = 10 * gap
        self._last = None
        rounding = nonlinearity(multiply(last[0] + vector), last[1], product)
        self.rounding = max(self.rounding, gap)
        return gap if gap > max(UNSYMMETRIC, 10 * rounding) else 0.0


def asymmetry(u: Tensor, image_u: Tensor, v: Tensor, image_v: Tensor) -> float:
    """Return |u . H v - v . H u| as a part of what rounding could make of it at most; 0 where all is zero."""
    norm = torch.linalg.vector_norm
    most = float(norm(u) * norm(image_v) + norm(v) * norm(image_u))
    return float((u @ image_v - v @ image_u).abs()) / most if most else 0.0


def nonlinearity(together: Tensor, image_u: Tensor, image_v: Tensor) -> float:
    """Return how far H (u + v) is from H u + H v, relatively: the rounding of the products."""
    return relative(together - image_u - image_v, together)


def relative(gap: Tensor, whole: Tensor) -> float:
    """Return the norm of a gap as a part of that of the whole; 0 where there is none, or it is not finite."""
    size, found = float(torch.linalg.vector_norm(whole)), float(torch.linalg.vector_norm(gap))
    return found / size if size and np.isfinite(found) else 0.0
