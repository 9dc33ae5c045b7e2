"""The C++ source of one kernel for a whole model: its sizes and its layout in memory."""

from __future__ import annotations

import math
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossnav.acceleration.fold_batch_norm import fold_batch_norm
from lossnav.acceleration.trace_graph import NotReadableError, TraceGraph, TraceNode
from lossnav.params import Params

ALIGNED = 16  # floats: 64 bytes
FLOATS: Any = {"dtype": torch.float32, "device": "cpu"}  # independent of torch's default dtype and device

CACHED_BYTES = 512 * 1024  # bytes of weights that stay in the second-level cache
FEW_PIXELS = 64


class _Packer:
    """The place of one node's weights in the buffer that the kernel reads, and copying them there."""

    def __init__(self, node: TraceNode, start: int, width: int, blocks: int, size: int, half: bool) -> None:
        self.node, self.start, self.width, self.blocks, self.size, self.half = node, start, width, blocks, size, half
        norm = node.norm
        of_norm = () if norm is None else (norm.weight, norm.bias, norm.mean, norm.var)
        self.names = [name for name in (node.weight, node.bias, *of_norm) if name is not None]

    def pack(self, state: Params, packed: Tensor) -> None:
        node = self.node
        if node.kind == "affine":
            assert node.norm is not None
            ones = torch.ones(node.shape[0], **FLOATS)
            weight, bias = fold_batch_norm(ones, None, node.norm, state)
            self._put(packed, self.start, weight)
            self._put(packed, self.start + self.blocks * self.width, bias)
            return
        weight = state[str(node.weight)]
        bias_or_none = None if node.bias is None else state[node.bias]
        if node.norm is not None:
            weight, bias_or_none = fold_batch_norm(weight, bias_or_none, node.norm, state)
        if node.kind == "linear" and node.inputs[0].kind == "flatten":
            weight = weight.reshape(weight.shape[0], *node.inputs[0].inputs[0].shape)
        if weight.dim() == 2:
            weight = weight[:, :, None, None]
        outputs = weight.shape[0]
        if missing := self.blocks * self.width - outputs:
            weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing))
        _, inputs, height, across = weight.shape
        target = packed[self.start : self.start + self.size]
        weight = weight.reshape(self.blocks, self.width, inputs, height, across)
        if self.half:  # pairs of inputs side by side
            weight = F.pad(weight, (0, 0, 0, 0, 0, inputs % 2))
            weight = weight.reshape(self.blocks, self.width, -(-inputs // 2), 2, height, across)
            halves = target.view(torch.bfloat16).view(self.blocks, height, across, -(-inputs // 2), self.width, 2)
            halves.copy_(weight.permute(0, 4, 5, 2, 1, 3))
        else:
            target.view(self.blocks, height, across, inputs, self.width).copy_(weight.permute(0, 3, 4, 2, 1))
        if bias_or_none is not None:
            self._put(packed, self.start + self.size, bias_or_none)

    @staticmethod
    def _put(packed: Tensor, start: int, values: Tensor) -> None:
        packed[start : start + values.numel()].copy_(values)


class KernelLayout:
    """Sizes, memory layout and source text of a kernel."""

    def __init__(self, graph: TraceGraph, sources: int, half: bool) -> None:
        self.nodes, self.sources, self.half = graph.nodes, sources, half
        self.vector, self.registers = _vector_unit()
        self.weights = self.scratch = 0
        self.packers: list[_Packer] = []
        self.users = {id(node): [u for u in self.nodes if node in u.inputs or u.added is node] for node in self.nodes}
        spatial = any(node.spatial for node in self.nodes)
        self.rows = 12 if spatial else 48  # samples that go through the layers together
        self.images: dict[int, str] = {}
        self.places: dict[int, str] = {}  # a C++ expression for where a node's values begin
        self.steps: dict[int, str] = {}  # for vectors: distance between samples
        self.sample_lines: list[str] = []
        self.row_lines: list[str] = []
        self.declarations: list[str] = []
        self._place()
        for node in self.nodes:
            self._write(node)
        self.source = self._text()

    # ---- memory

    def _lanes(self, channels: int) -> int:
        """Return the floats per vector: half as many if a full vector would be half empty."""
        lanes = self.vector
        while lanes > 4 and -channels % lanes >= lanes // 2:
            lanes //= 2
        return lanes

    def _padded(self, channels: int) -> int:
        lanes = self._lanes(channels)
        return -(-channels // lanes) * lanes

    def _stride(self, node: TraceNode) -> int:
        """Return the floats between pixels; data that only convolutions read is not padded."""
        if node.kind == "input" and all(user.kind == "convolution" for user in self.users[id(node)]):
            return self._words(node.shape[0]) * (2 if self.half else 1)
        return self._padded(node.shape[0])

    def _words(self, inputs: int) -> int:
        """Return the number of 32-bit words in a row of inputs."""
        return -(-inputs // 2) if self.half else inputs

    def _take(self, floats: int) -> int:
        start = self.scratch
        self.scratch += -(-floats // ALIGNED) * ALIGNED
        return start

    def _place(self) -> None:
        """Assign memory to every node; images of the same shape share it, so their borders stay zero."""
        free: dict[str, list[int]] = {}
        last_use = {
            id(node): max((self.nodes.index(u) for u in self.users[id(node)]), default=0) for node in self.nodes
        }
        alive: list[tuple[int, str, int]] = []
        for i, node in enumerate(self.nodes):
            for end, form, start in [entry for entry in alive if entry[0] < i]:
                free.setdefault(form, []).append(start)
                alive.remove((end, form, start))
            if not node.spatial:
                self._place_vector(node)
                continue
            users = self.users[id(node)]
            flat = [user for user in users if user.kind == "flatten"]
            border = max((max(u.padding) for u in users if u.kind == "convolution" and u.inputs[0] is node), default=0)
            channels, height, width = node.shape
            form = f"Image<{channels}, {self._stride(node)}, {height}, {width}, {border}>"
            self.images[id(node)] = f"I{i}"
            self.declarations.append(f"using I{i} = {form};")
            if flat:
                if border or node.kind == "input":
                    raise NotReadableError("an image that is flattened and convolved")
                step = self._stride(node) * height * width
                start = self._take(step * self.rows)
                self.places[id(node)] = f"(scratch + {start} + row * {step}L)"
                for user in flat:
                    self.places[id(user)], self.steps[id(user)] = f"(scratch + {start})", f"{step}L"
                continue
            size = self._stride(node) * (height + 2 * border) * (width + 2 * border) + 4 * self.vector
            start = free[form].pop() if free.get(form) else self._take(size)
            self.places[id(node)] = f"(scratch + {start})"
            alive.append((last_use[id(node)], form, start))

    def _place_vector(self, node: TraceNode) -> None:
        if node.kind == "flatten":
            return  # its memory is that of the image
        if self._read_in_place(node):
            self.places[id(node)], self.steps[id(node)] = f"(in[0] + start * {node.shape[0]}L)", f"{node.shape[0]}L"
            return
        step = self._padded(node.shape[0])
        self.places[id(node)] = f"(scratch + {self._take(step * self.rows)})"
        self.steps[id(node)] = f"{step}L"

    def _read_in_place(self, node: TraceNode) -> bool:
        """Whether the data is read only by products, which need no padding between its rows."""
        only_multiplied = all(u.kind == "linear" and u.added is not node for u in self.users[id(node)])
        return node.kind == "input" and self.sources == 1 and not node.relu and not self.half and only_multiplied

    # ---- code

    def _write(self, node: TraceNode) -> None:
        kind = node.kind
        if kind == "flatten":
            return
        if kind == "input":
            self._write_input(node)
            return
        before = node.inputs[0]
        if node.spatial and not before.spatial:
            raise NotReadableError("an image that is computed from a vector")
        if not node.spatial and before.kind == "flatten" and kind != "linear" and before.inputs[0].shape[1:] != (1, 1):
            raise NotReadableError(f"{kind} on a flattened image")
        out, x = self.places[id(node)], self.places[id(before)]
        lanes = self._lanes(node.shape[0])
        flags = f"{_cpp(node.added)}, {_cpp(node.relu)}"
        if kind == "convolution":
            self._write_convolution(node, before, flags)
        elif kind == "linear":
            self._write_linear(node, before, flags)
        elif kind in ("affine", "add", "relu"):
            scale, shift = "nullptr", "nullptr"
            if node.norm is not None:
                padded = self._padded(node.shape[0])
                start = self._weights_for(node, lanes, padded // lanes, padded)
                scale, shift = f"(w + {start})", f"(w + {start + padded})"
            added = "nullptr" if node.added is None else self.places[id(node.added)]
            types = [self._image(part) for part in (before, node, node.added or node)]
            call = f"elementwise<{', '.join(types)}, {lanes}, {_cpp(node.norm)}, {flags}>"
            if node.spatial:
                self.sample_lines.append(f"{call}({x}, {scale}, {shift}, {added}, {out});")
            else:
                steps = [self.steps[id(part)] for part in (before, node.added or before, node)]
                plus = "nullptr" if node.added is None else f"{added} + row * {steps[1]}"
                self.row_lines.append(
                    f"for (int row = 0; row < rows; row++) "
                    f"{call}({x} + row * {steps[0]}, {scale}, {shift}, {plus}, {out} + row * {steps[2]});"
                )
        else:
            both = f"{self._image(before)}, {self._image(node)}"
            padding = ", ".join(map(str, node.padding))
            window = ", ".join(map(str, (*node.kernel, *node.stride)))
            self.sample_lines.append(
                {
                    "max_pool": f"max_pool<{both}, {lanes}, {window}, {padding}>({x}, {out});",
                    "average_pool": f"average_pool<{both}, {lanes}, {window}>({x}, {out});",
                    "select": f"select<{both}, {node.stride[0]}, {node.stride[1]}, {node.offset}>({x}, {out});",
                }[kind]
            )

    def _image(self, node: TraceNode) -> str:
        if node.spatial:
            return self.images[id(node)]
        return f"Image<{node.shape[0]}, {self._padded(node.shape[0])}, 1, 1, 0>"

    def _write_input(self, node: TraceNode) -> None:
        out = self.places[id(node)]
        if node.spatial:
            call = f"enter<{self.images[id(node)]}, {self.sources}>"
            self.sample_lines.append(f"{call}(in, factors, start + row, {out});")
        elif not self._read_in_place(node):
            call = f"enter_rows<{node.shape[0]}, {self.sources}, {_cpp(node.relu)}>"
            self.row_lines.append(f"{call}(in, factors, start, rows, {out}, {self.steps[id(node)]});")

    def _block(self, outputs: int, length: int) -> tuple[int, int, int]:
        """Return lanes, output vectors and pixels (or samples) that are summed together in registers."""
        lanes = self._lanes(outputs)
        vectors = self._padded(outputs) // lanes
        across = next(q for q in (2, 3, 1) if vectors % q == 0)
        most = min(16, self.registers // across)
        return lanes, across, -(-length // -(-length // most))

    def _write_convolution(self, node: TraceNode, before: TraceNode, flags: str) -> None:
        lanes, across, pixels = self._block(node.shape[0], node.shape[2])
        blocks = self._padded(node.shape[0]) // (lanes * across)
        size = math.prod(node.kernel) * self._words(before.shape[0]) * blocks * lanes * across
        start = self._weights_for(node, lanes * across, blocks, size)
        images = ", ".join(self._image(part) for part in (before, node, node.added or node))
        numbers = (lanes, across, pixels, *node.kernel, *node.stride, *node.padding, *node.dilation)
        added = "nullptr" if node.added is None else self.places[id(node.added)]
        self.sample_lines.append(
            f"convolve<{images}, {', '.join(map(str, numbers))}, {flags}>({self.places[id(before)]}, "
            f"w + {start}, w + {start + size}, {added}, {self.places[id(node)]});"
        )

    def _write_linear(self, node: TraceNode, before: TraceNode, flags: str) -> None:
        lanes, across, rows = self._block(node.shape[0], self.rows)
        padded = self._padded(node.shape[0])
        blocks = padded // (lanes * across)
        if before.kind == "flatten":
            image = before.inputs[0]
            pixels, channels, stride = math.prod(image.shape[1:]), image.shape[0], self._stride(image)
        else:
            pixels, channels, stride = 1, before.shape[0], before.shape[0]
        size = pixels * self._words(channels) * padded
        start = self._weights_for(node, lanes * across, blocks, size)
        added = ("nullptr", "0") if node.added is None else (self.places[id(node.added)], self.steps[id(node.added)])
        self.row_lines.append(
            f"multiply<{lanes}, {across}, {rows}, {pixels}, {channels}, {stride}, {padded}, {flags}>(rows, "
            f"{self.places[id(before)]}, {self.steps[id(before)]}, w + {start}, w + {start + size}, "
            f"{added[0]}, {added[1]}, {self.places[id(node)]}, {self.steps[id(node)]});"
        )

    def _weights_for(self, node: TraceNode, width: int, blocks: int, size: int) -> int:
        """Reserve memory for weights and, after them, one bias per output."""
        start = self.weights
        self.packers.append(_Packer(node, start, width, blocks, size, self.half))
        self.weights += -(-(size + width * blocks) // ALIGNED) * ALIGNED
        return start

    def _text(self) -> str:
        last = self.nodes[-1]
        lines = [
            *(["#define BFLOAT16"] if self.half else []),
            _header(),
            *self.declarations,
            'extern "C" void run(const float* const* in, const float* factors, const float* w, float* result, long n,',
            "                    long tile, float* memory, long share, long threads) {",
            "    constexpr int ANY = __ATOMIC_RELAXED;",
            "    long following = 0, arrived = 0;",
            "#pragma omp parallel num_threads(threads)",
            "    for (number* scratch = (number*)(memory + share * __atomic_fetch_add(&arrived, 1, ANY));;) {",
            "        const long start = __atomic_fetch_add(&following, tile, ANY);",
            "        if (start >= n) break;",
            "        const int rows = n - start < tile ? n - start : tile;",
            *(["        for (int row = 0; row < rows; row++) {"] if self.sample_lines else []),
            *(f"            {line}" for line in self.sample_lines),
            *(["        }"] if self.sample_lines else []),
            *(f"        {line}" for line in self.row_lines),
            "        for (int row = 0; row < rows; row++)",
            f"            for (int i = 0; i < {last.shape[0]}; i++) result[(start + row) * {last.shape[0]}L + i] = "
            f"to_float({self.places[id(last)]}[row * {self.steps[id(last)]} + i]);",
            "    }",
            "}",
        ]
        return "\n".join(lines) + "\n"


def _cpp(value: object) -> str:
    return "true" if value else "false"


@cache
def _header() -> str:
    return (Path(__file__).parent / "kernel.hpp").read_text()


@cache
def _vector_unit() -> tuple[int, int]:
    """Return the floats per vector register, and the number of registers for sums."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        return 16, 24
    return (8, 12) if capability == "AVX2" else (4, 24 if platform.machine().lower() in ("arm64", "aarch64") else 12)
