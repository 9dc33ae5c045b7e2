"""Operators: symmetric matrices that are known only by their products, and checks of operators from outside lossnav."""

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

DIGITS = 8  # error of a product in units in the last place, as observed for many kinds of networks
UNSYMMETRIC = 1e-3  # asymmetry (as `asymmetry` measures it) that is more than rounding


class Operator(ABC, Generic[V]):
    """A symmetric matrix of shape (d, d) that is never stored, only multiplied.

    `trace`, `diagonal`, `top_eigenpairs` and `spectral_density` accept any operator. `Hessian` and `GaussNewton` are
    two of them; one of your own needs ``shape``, ``dtype`` and ``@``, and may define the other members.

    Attributes
    ----------
    shape : tuple of two int
        (d, d).
    dtype : torch.dtype
        The dtype of the vectors that it receives, and of its arithmetic: real, floating point. By default float64.
    device : torch.device
        The device of the vectors that it receives. By default the CPU.
    title : str
        Its name in messages. By default the name of its class.
    passes : int
        Passes over data so far, if it uses data. By default 0.

    Notes
    -----
    An object with ``shape``, ``dtype`` and ``@`` need not be a subclass: a dense matrix (a Tensor or an ndarray) or a
    SciPy ``LinearOperator`` will do. If its ``dtype`` is NumPy's, it receives ndarrays.

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
        """Multiply by the columns of a Tensor of shape (d, k), in its dtype and on its device: a Tensor (d, k)."""

    def rounding(self, size: float) -> float:
        """Return the rounding error of products with this matrix: no eigenvalue is known more accurately.

        By default, a few units in the last place of its dtype, times its size.

        Parameters
        ----------
        size : float
            The largest absolute eigenvalue of the matrix, or a norm that is larger.
        """
        return DIGITS * torch.finfo(self.dtype).eps * size

    def to_flat(self, vector: V) -> Tensor:
        """Convert a vector in the form of results to a Tensor of shape (d,), float64. By default they are the same."""
        assert isinstance(vector, Tensor)
        return vector.detach().to(self.device, torch.float64)

    def from_flat(self, flat: Tensor) -> V:
        """Convert a Tensor of shape (d,), float64, to the form of results. By default they are the same."""
        return flat  # type: ignore[return-value]


class CheckedOperator(Operator[V]):
    """An operator for the estimates: its products are counted, and checked for symmetry.

    Attributes
    ----------
    size : int
        d.
    count : int
        Products computed so far.
    """

    size: int
    count: int

    @abstractmethod
    def multiply(self, vectors: Tensor) -> Tensor:
        """Multiply by the rows of a Tensor of shape (k, d), float64; the products are the rows of the result."""

    @abstractmethod
    def require_vector(self, vector: V) -> None:
        """Raise unless a vector has the structure that this operator needs."""


def as_operator(given: Operator[V], function: str = "This") -> CheckedOperator[V]:
    """Convert an object with ``shape``, ``dtype`` and ``@`` to an operator for the estimates.

    Raises
    ------
    OptionError
        If it is not an operator; the message names `function`.
    """
    if isinstance(given, CheckedOperator):
        return given
    return _Given(given, function)


class _Given(CheckedOperator[V]):
    """An operator from outside lossnav, whose results are checked."""

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
        """Passes over data, if the operator counts them."""
        return int(getattr(self.given, "passes", 0))

    def __matmul__(self, vectors: Tensor) -> Tensor:
        handed: Any = vectors.to(self.device, self.dtype, copy=True)  # a copy, because it may write into it
        made = self.given @ (handed.cpu().numpy() if self.in_numpy else handed)
        if not isinstance(made, Tensor | np.ndarray) or tuple(made.shape) != tuple(vectors.shape):
            shape = tuple(made.shape) if hasattr(made, "shape") else type(made).__name__
            raise OptionError(
                f"{self.title} @ vectors of shape {tuple(vectors.shape)} returned {shape}. Return a Tensor of "
                "the shape of the vectors, with a product in each column."
            )
        return torch.as_tensor(made).detach().to(self.device, torch.float64)

    def multiply(self, vectors: Tensor) -> Tensor:
        """Multiply by some vectors; raise if two products contradict symmetry by more than rounding."""
        self.count += len(vectors)
        images = (self @ vectors.T).T.clone(memory_format=torch.contiguous_format)  # it may return its argument
        for vector, image in zip(vectors, images, strict=True):
            gap = self._symmetry.gap(vector, image, lambda both: (self @ both[:, None])[:, 0])
            if gap:
                raise OptionError(
                    f"{self.title} is not symmetric: u . A v and v . A u differ by {gap:.1%}, but eigenvalues, trace "
                    "and density are only estimated for symmetric matrices. Pass (A + A.T) / 2 if you mean that."
                )
        return images

    def rounding(self, size: float) -> float:
        """Return the operator's own value, or the observed error if that is larger."""
        own = getattr(self.given, "rounding", super().rounding)
        return max(float(own(size)), self._symmetry.rounding * size)

    def to_flat(self, vector: V) -> Tensor:
        """As the operator has it."""
        return self.given.to_flat(vector) if isinstance(self.given, Operator) else super().to_flat(vector)

    def from_flat(self, flat: Tensor) -> V:
        """As the operator has it."""
        return self.given.from_flat(flat) if isinstance(self.given, Operator) else super().from_flat(flat)

    def require_vector(self, vector: V) -> None:
        """Raise OptionError for a vector of the wrong length."""
        shape = tuple(self.to_flat(vector).shape)
        if shape != (self.size,):
            raise OptionError(
                f"A vector of shape {shape} does not fit {self.title}, which has shape {self.shape}. Pass vectors of "
                f"shape ({self.size},)."
            )


def _require_members(given: Any, function: str) -> None:
    """Raise OptionError for an object that is not an operator, with what to pass instead."""
    if isinstance(given, Objective):
        raise OptionError(
            f"{function} needs an operator, got an objective. Pass ln.curvature.Hessian(objective), or "
            "ln.curvature.GaussNewton(objective)."
        )
    if isinstance(given, type):
        raise OptionError(f"{function} needs an operator, got the class {given.__name__}. Pass an instance of it.")
    missing = [name for name in ("shape", "dtype", "__matmul__") if not hasattr(given, name)]
    if missing:
        raise OptionError(
            f"{function} needs an operator, got {described(given)}, which lacks {', '.join(missing)}. Pass "
            "ln.curvature.Hessian(objective), or an object with shape, dtype and @ (see ln.curvature.Operator)."
        )


def _size_of(given: Any) -> int:
    """Return the number of rows of a square matrix."""
    shape = tuple(given.shape)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise OptionError(f"An operator must be a square matrix, got shape {shape}. Define shape as (d, d).")
    return int(shape[0])


def _dtype_of(given: Any, function: str) -> torch.dtype:
    """Return the operator's dtype as a torch.dtype."""
    dtype = given.dtype
    if not isinstance(dtype, torch.dtype):
        try:
            dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        except TypeError:
            dtype = None
    if dtype is None or not dtype.is_floating_point:
        raise OptionError(
            f"{function} needs an operator of real numbers, got dtype={given.dtype!r}. Use torch.float64 or "
            "torch.float32; for a matrix of integers, pass matrix.double()."
        )
    return dtype  # type: ignore[no-any-return]


# ---------------------------------------------------------------------- symmetry


class SymmetryWatch:
    """Checks products for symmetry: each is compared with the previous one, usually without a further product.

    Attributes
    ----------
    rounding : float
        The largest gap that was examined, relative to a product.
    """

    def __init__(self, eps: float) -> None:
        self.rounding = 0.0
        self._last: tuple[Tensor, Tensor] | None = None  # a vector and its product
        self._allowed = max(1e-9, 1e3 * eps)

    def gap(self, vector: Tensor, product: Tensor, multiply: Callable[[Tensor], Tensor]) -> float:
        """Return the asymmetry between a product and the previous one, if it is more than rounding; else 0."""
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
    """Return |u . H v - v . H u| relative to |u| |H v| + |v| |H u|; 0 if all is zero."""
    norm = torch.linalg.vector_norm
    most = float(norm(u) * norm(image_v) + norm(v) * norm(image_u))
    return float((u @ image_v - v @ image_u).abs()) / most if most else 0.0


def nonlinearity(together: Tensor, image_u: Tensor, image_v: Tensor) -> float:
    """Return the relative difference between H (u + v) and H u + H v, which is the rounding of the products."""
    return relative(together - image_u - image_v, together)


def relative(gap: Tensor, whole: Tensor) -> float:
    """Return the norm of a gap relative to that of the whole; 0 if the whole is zero, or the gap is not finite."""
    size, found = float(torch.linalg.vector_norm(whole)), float(torch.linalg.vector_norm(gap))
    return found / size if size and np.isfinite(found) else 0.0
