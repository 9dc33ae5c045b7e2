"""One kernel for a whole model: generated for its sizes, compiled once, with the weights as inputs.

Between two layers of a small network, the plain path writes megabytes to memory and reads them back. Here a few samples
go through all layers before the next ones start, so intermediate values stay in the cache (Alwani et al. 2016, fused
layers; the inner blocks are the register tiles of Goto & van de Geijn 2008).
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from lossnav.acceleration.compiler import FLAGS, compile_source, compiler_path, processor
from lossnav.acceleration.kernel_source import ALIGNED, CACHED_BYTES, FEW_PIXELS, FLOATS, KernelLayout
from lossnav.acceleration.trace_graph import NotReadableError, TraceGraph
from lossnav.params import Params


def require_weights_in_cache(graph: TraceGraph) -> None:
    """Raise NotReadableError if a convolution's weights do not fit into the cache and are used for few pixels.

    A convolution reads its weights once per sample, so 512 kB of weights or more pay only with 64 pixels or more.
    """
    for node in graph.nodes:
        if node.kind == "convolution":
            weights = 4 * node.shape[0] * node.inputs[0].shape[0] * math.prod(node.kernel)
            if weights > CACHED_BYTES and math.prod(node.shape[1:]) < FEW_PIXELS:
                raise NotReadableError(f"{node.weight} does not fit into the cache")


class Kernel:
    """A graph as one compiled function of data and weights.

    Parameters
    ----------
    graph : TraceGraph
    sources : int
        The number of tensors whose weighted sum is the data; 1 for plain data.
    half : bool
        Whether weights and intermediate values are bfloat16; sums are float32.

    Raises
    ------
    NotReadableError
        If the kernel cannot do the operations in this order, or the processor has no bfloat16.
    """

    def __init__(self, graph: TraceGraph, sources: int = 1, half: bool = False) -> None:
        if half and "avx512_bf16" not in processor():
            raise NotReadableError("this processor has no instructions for bfloat16")
        self.graph, self.sources = graph, sources
        self.features = graph.nodes[-1].shape[0]
        layout = KernelLayout(graph, sources, half)
        self.names = {name for packer in layout.packers for name in packer.names}
        self.source, self._packers = layout.source, layout.packers
        self._packed = _aligned_zeros(layout.weights)
        self._rows, self._scratch_size = layout.rows, layout.scratch + 8 * ALIGNED  # floats, for each thread
        self._scratch = torch.empty(0, **FLOATS)
        self.compile_seconds = 0.0  # in this process; later ones find the compiled kernel

    @cached_property
    def path(self) -> Path:
        """The file of the compiled kernel, whose name is a hash of everything that it depends on."""
        parts = (self.source, compiler_path() or "", " ".join(FLAGS), processor())
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
        return platformdirs.user_cache_path("lossnav") / "kernels" / f"{digest}.so"

    @property
    def compiled(self) -> bool:
        """Whether an earlier run has compiled it."""
        return self.path.exists()

    @cached_property
    def function(self) -> Callable[..., None]:
        """The compiled function. Compiling takes one to a few seconds, once (see `compiling_later`)."""
        if not self.compiled:
            if (waiting := _waiting.get()) is not None:
                waiting.append(self)
                raise NotReadableError("the kernel is compiled in the background")
            started = time.perf_counter()
            compile_source(self.source, self.path)
            self.compile_seconds = time.perf_counter() - started
        try:
            run = ctypes.CDLL(str(self.path)).run
        except OSError as error:
            raise NotReadableError(f"the kernel could not be loaded: {error}") from None
        pointer, integer = ctypes.c_void_p, ctypes.c_long
        run.argtypes = [pointer, pointer, pointer, pointer, integer, integer, pointer, integer, integer]
        run.restype = None
        return run

    def load(self, state: Params) -> None:
        """Load the weights of a point: BatchNorm folded in, in the order in which the kernel reads them."""
        for packer in self._packers:
            packer.pack(state, self._packed)

    def __call__(self, data: Sequence[Tensor], factors: Sequence[float] = (1.0,)) -> Tensor:
        """Return the model's output for some data, shape (n, features).

        Parameters
        ----------
        data : sequence of Tensor, each (n, ...), float32, contiguous
        factors : sequence of float
            The data is sum_i factors[i] data[i]; the first is 1.
        """
        n = data[0].shape[0]
        out = torch.empty(n, self.features, **FLOATS)
        sources = (ctypes.c_void_p * len(data))(*(tensor.data_ptr() for tensor in data))
        weighed = (ctypes.c_float * len(data))(*factors)
        threads = max(1, min(torch.get_num_threads(), -(-n // self._rows)))
        rows = min(self._rows, max(1, -(-n // threads)))
        if len(self._scratch) < threads * self._scratch_size:
            self._scratch = _aligned_zeros(threads * self._scratch_size)
        self.function(
            sources,
            weighed,
            self._packed.data_ptr(),
            out.data_ptr(),
            n,
            rows,
            self._scratch.data_ptr(),
            self._scratch_size,
            threads,
        )
        return out


def _aligned_zeros(floats: int) -> Tensor:
    """Return zeros whose address is a multiple of 64 bytes."""
    room = torch.zeros(floats + 2 * ALIGNED, **FLOATS)
    skipped = -room.data_ptr() % 64 // 4
    return room[skipped : skipped + floats]


# ---------------------------------------------------------------------- the compiler

_waiting: ContextVar[list[Kernel] | None] = ContextVar("waiting", default=None)


@contextmanager
def compiling_later() -> Iterator[list[Kernel]]:
    """Within this context, kernels that are not compiled yet are not used, and are collected in the yielded list.

    For callers that cannot wait a second: they get a plan without the kernel, call ``kernel.function`` for each
    collected kernel in another thread, and then get a plan with it.
    """
    found: list[Kernel] = []
    token = _waiting.set(found)
    try:
        yield found
    finally:
        _waiting.reset(token)
