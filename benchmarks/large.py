"""What a 3x3 plane of a model of 1.1 billion parameters in bfloat16 takes beyond the model itself.

Asked: peak resident size of the process <= 2.3 x the model. The model is built on the fly, with random weights; the
objective looks at its weights (``copy=False``), the directions are lazy, and so the point under way is the only
extra memory. A small run before loads the libraries; what the process holds then is "before" below.

    python -m benchmarks.large [--quick] [--json]

Linux only: the peak is read from /proc/self/status.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lossnav as ln
from benchmarks.common import machine, options, report
from benchmarks.memory import status

SEQUENCES, TOKENS = 4, 32


class Block(nn.Module):
    """Attention and a gated layer, each beside a shortcut."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """From and to (sequences, tokens, width)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        inner = self.norm2(x)
        return x + self.down(F.silu(self.gate(inner)) * self.up(inner))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A causal language model without positions: embedding, blocks, head."""

    def __init__(self, words: int, width: int, inner: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.blocks = nn.Sequential(*(Block(width, inner, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (sequences, words, tokens), as cross-entropy takes them."""
        return self.head(self.norm(self.blocks(self.embedding(tokens)))).transpose(1, 2).float()  # type: ignore[no-any-return]


def build(words: int, width: int, inner: int, heads: int, blocks: int) -> nn.Module:
    """Make the model in bfloat16 from the start: no float32 copy of it is ever there."""
    with torch.device("meta"):
        model = Decoder(words, width, inner, heads, blocks).to(torch.bfloat16)
    model.to_empty(device="cpu").requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.02, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def run(words: int, *sizes: int) -> dict[str, float]:
    """Build the model, evaluate the plane, and say how long the parts took."""
    model = build(words, *sizes)
    megabytes = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    text = torch.randint(0, words, (SEQUENCES, TOKENS + 1), generator=torch.Generator().manual_seed(1))
    objective = ln.Objective(model, "cross_entropy", (text[:, :-1], text[:, 1:]), copy=False)
    started = time.perf_counter()
    directions = ln.directions.random(objective, n=2, seed=0, lazy=True)
    drawn = time.perf_counter()
    plane = ln.Plane(objective.params, *directions)
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), progress=False)
    evaluated = time.perf_counter()
    objective.evaluate(objective.params)
    passed = time.perf_counter() - evaluated
    return {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "model MB": megabytes,
        "seconds, directions measured": drawn - started,
        "seconds, evaluate": evaluated - drawn,
        "seconds a point": surface.attrs["seconds"] / 9,
        "seconds a pass over the data": passed,
        "loss at the centre": float(surface["loss"].sel(alpha=0.0, beta=0.0)),
        "loss at a corner": float(surface["loss"][0, 0]),
    }


def main() -> None:
    chosen = options(__doc__ or "")
    small = (1_000, 64, 128, 2, 2)
    run(*small)  # loads the libraries
    before = status("VmRSS")
    found = run(*((8_000, 512, 1_024, 8, 4) if chosen.quick else (32_000, 2_048, 5_632, 16, 19)))
    peak, model = status("VmHWM"), found["model MB"]
    memory = {
        "before MB": before,
        "peak MB": peak,
        "peak / model": peak / model,
        "growth / model": (peak - before) / model,
    }
    report({"machine": machine(), **found, **memory}, chosen.json)


if __name__ == "__main__":
    main()
