"""PyHessian and curvlinops doing what `benchmarks.curvature` measures, each through its own entry.

They are looked for where they are installed, or in the folder named by LOSSNAV_PEERS: ``pip install --no-deps --target
DIR pyhessian curvlinops-for-pytorch backpack-for-pytorch einops einconv linear_operator``. Both are given the model in
eval mode, so that BatchNorm is frozen as in ours, and the batches of our objective.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from benchmarks.workloads import Workload

Ends = tuple[list[float], int]  # eigenvalues, products

BOTH_LIMIT = 400  # products


class Peer:
    """What a package can do; what it lacks raises NotImplementedError and says what."""

    def product(self, vector: Tensor) -> Tensor:
        """H v, shape (d,)."""
        raise NotImplementedError

    def block(self, vectors: Tensor) -> Tensor:
        """H V, shape (k, d) as V."""
        return torch.stack([self.product(vector) for vector in vectors])

    def keeping(self) -> Callable[[Tensor], Any]:
        """H v by a way that keeps between products what does not change."""
        raise NotImplementedError

    def largest(self, tolerance: float) -> Ends:
        """The largest eigenvalue."""
        raise NotImplementedError

    def both(self, tolerance: float) -> Ends:
        """Smallest and largest."""
        raise NotImplementedError

    def density(self, probes: int, steps: int, ends: tuple[float, float]) -> Any:
        """The spectral density; the ends of the spectrum are known."""
        raise NotImplementedError


class PyHessian(Peer):
    """PyHessian 0.1: products one at a time, power iteration, Lanczos with reorthogonalisation."""

    def __init__(self, work: Workload, batches: list[tuple[Tensor, Tensor]]) -> None:
        self._package, self._work = importlib.import_module("pyhessian"), work
        self._made = self._package.hessian(copy.deepcopy(work.model), work.loss, dataloader=batches, cuda=False)

    def product(self, vector: Tensor) -> Tensor:
        """One at a time."""
        return torch.cat([part.reshape(-1) for part in self._made.dataloader_hv_product(self._cut(vector))[1]])

    def keeping(self) -> Callable[[Tensor], Any]:
        """Products from the graph of the gradient on all images, which is made once."""
        work = self._work
        made = self._package.hessian(copy.deepcopy(work.model), work.loss, data=(work.x, work.y), cuda=False)
        multiply = importlib.import_module("pyhessian.utils").hessian_vector_product
        return lambda vector: multiply(made.gradsH, made.params, self._cut(vector))

    def _cut(self, vector: Tensor) -> list[Tensor]:
        parameters = self._made.params
        parts = torch.split(vector.float(), [parameter.numel() for parameter in parameters])
        return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]

    def largest(self, tolerance: float) -> Ends:
        """By power iteration: the largest in size, until it changes by less than the tolerance from step to step."""
        count, plain = [0], self._made.dataloader_hv_product

        def counted(vector: Any) -> Any:
            count[0] += 1
            return plain(vector)

        self._made.dataloader_hv_product = counted
        try:
            values, _ = self._made.eigenvalues(maxIter=BOTH_LIMIT, tol=tolerance)
        finally:
            self._made.dataloader_hv_product = plain
        return values, count[0]

    def both(self, tolerance: float) -> Ends:
        """It has no way to the other end."""
        raise NotImplementedError("power iteration finds the end that is larger in size alone")

    def density(self, probes: int, steps: int, ends: tuple[float, float]) -> Any:
        """Its nodes and weights."""
        torch.__dict__["eig"] = _eig  # it was taken out of torch in 1.13
        try:
            return self._made.density(iter=steps, n_v=probes)
        finally:
            del torch.__dict__["eig"]


def _eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return values[:, None], vectors


class Curvlinops(Peer):
    """curvlinops 3: products by forward- over reverse-mode, several at once; eigenvalues by SciPy's `eigsh`."""

    def __init__(self, work: Workload, batches: list[tuple[Tensor, Tensor]]) -> None:
        self._package = importlib.import_module("curvlinops")
        model, loss = copy.deepcopy(work.model), torch.nn.CrossEntropyLoss()
        parameters = list(model.parameters())
        self._made = self._package.HessianLinearOperator(model, loss, parameters, batches, check_deterministic=False)

    def product(self, vector: Tensor) -> Tensor:
        """As a matrix of one column."""
        made: Tensor = self._made @ vector.float()
        return made

    def block(self, vectors: Tensor) -> Tensor:
        """As one matrix."""
        made: Tensor = self._made @ vectors.float().T
        return made.T

    def largest(self, tolerance: float) -> Ends:
        """By `eigsh`."""
        return self._eigsh("LA", 1, tolerance)

    def both(self, tolerance: float) -> Ends:
        """By `eigsh`, from the same products."""
        return self._eigsh("BE", 2, tolerance)

    def _eigsh(self, which: str, k: int, tolerance: float) -> Ends:
        return arpack(
            lambda vector: self.product(torch.from_numpy(vector)).numpy(), self._made.shape[0], which, k, tolerance
        )

    def density(self, probes: int, steps: int, ends: tuple[float, float]) -> Any:
        """By Lanczos without reorthogonalisation, on the ends that are given."""
        return self._package.lanczos_approximate_spectrum(self._made, steps, num_repeats=probes, boundaries=ends)


def arpack(product: Callable[[Any], Any], size: int, which: str, k: int, tolerance: float) -> Ends:
    """Eigenvalues by SciPy's `eigsh`, from a random vector of seed 0, and the products that takes."""
    count = [0]

    def counted(vector: Any) -> Any:
        count[0] += 1
        return product(np.ascontiguousarray(vector.reshape(-1)))

    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=counted, dtype=np.float64)
    values = eigsh(operator, k=k, which=which, tol=tolerance, v0=start, return_eigenvectors=False)
    return np.sort(values).tolist(), count[0]


def available(work: Workload, batches: list[tuple[Tensor, Tensor]]) -> tuple[dict[str, Peer], dict[str, str]]:
    """Peers that are there, and why the others are not."""
    if folder := os.environ.get("LOSSNAV_PEERS"):
        sys.path.append(folder)
    found: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for name, make in (("PyHessian", PyHessian), ("curvlinops", Curvlinops)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = make(work, batches)
        except ImportError as error:
            missing[name] = f"not installed: {error}"
    return found, missing
