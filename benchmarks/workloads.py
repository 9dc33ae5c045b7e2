"""The four workloads the engine is measured on, each an objective with its plane, and the model for the plain loop."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lossnav as ln


@dataclass
class Workload:
    """A model, its data as tensors, and its loss."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    loss: Callable[..., Tensor]


def shared(name: str) -> Path | None:
    """Real data, where it lies beside the project."""
    for base in (os.environ.get("LOSSNAV_DATA"), Path(__file__).parent.parent.parent / "shared" / "data"):
        if base and (Path(base) / name).exists():
            return Path(base) / name
    return None


def cnn(samples: int = 1000) -> Workload:
    """The notebook's CNN on 1,000 held-out images: MNIST where it is, else digits (repeated)."""
    return _cnn("mnist" if shared("mnist") else "digits", samples)


def cnn_digits(samples: int = 400) -> Workload:
    """The notebook's CNN on the 400 held-out images of scikit-learn's digits."""
    return _cnn("digits", samples)


def _cnn(name: str, samples: int) -> Workload:
    root = shared("mnist") if name == "mnist" else None
    data = ln.zoo.mnist(root) if root else ln.zoo.digits()
    model = ln.zoo.NotebookCNN()
    trained = ln.zoo.notebook_cnn(0)
    ln.zoo.train(trained, data, passes=1 if root else 10, batch_size=250 if root else 25, progress=False)
    model.load_state_dict({name: tensor.contiguous() for name, tensor in trained.state_dict().items()})
    x, y = (torch.cat([part] * (samples // len(part) + 1))[:samples] for part in data.test)
    return Workload("notebook CNN", model.eval(), x, y, F.cross_entropy)


def resnet56(samples: int = 1000) -> Workload:
    """ResNet-56, the public checkpoint and CIFAR-10's first held-out images where they are, else random."""
    model = ln.zoo.resnet(56)
    checkpoint, parquet = shared("resnet56-cifar10.th"), shared("cifar10/test.parquet")
    if checkpoint and parquet:
        import numpy as np
        import pyarrow.parquet as pq
        from PIL import Image

        ln.checkpoints.load_into(model, checkpoint)
        table = pq.read_table(parquet).slice(0, samples)
        pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["img"].to_pylist()]
        x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (ln.zoo.CIFAR_MEAN, ln.zoo.CIFAR_STD))
        x, y = ((x - mean) / std).contiguous(), torch.tensor(table["label"].to_pylist())
    else:
        torch.manual_seed(0)
        x, y = torch.randn(samples, 3, 32, 32), torch.randint(0, 10, (samples,))
        model(x[:100])
    return Workload("ResNet-56", model.eval(), x, y, F.cross_entropy)


def mlp(samples: int = 10_000) -> Workload:
    """An MLP 784-512-512-10, briefly trained, on 10,000 held-out images."""
    root = shared("mnist")
    data = ln.zoo.mnist(root) if root else ln.zoo.digits()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    ln.zoo.train(model, data, passes=1 if root else 10, batch_size=250 if root else 25, progress=False)
    x, y = (torch.cat([part] * (samples // len(part) + 1))[:samples] for part in data.test)
    return Workload("MLP", model.eval(), x, y, F.cross_entropy)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes out of the block, shape (n, tokens, width)."""
        n, t, _ = x.shape
        parts = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (part.reshape(n, t, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, -1))
        result: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return result


class GPT(nn.Module):
    """A small transformer over bytes: 4 layers, width 256, 4 heads, 128 tokens, tied embeddings."""

    def __init__(self, vocabulary: int = 256, width: int = 256, layers: int = 4, length: int = 128) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of shape (n, tokens, vocabulary)."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def next_token(logits: Tensor, ids: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of the next byte; one value a sequence where not reduced."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
    return losses if reduction == "none" else losses.mean()


def gpt(samples: int = 64) -> Workload:
    """A small GPT, a few steps into training on Python's own source code."""
    torch.manual_seed(0)
    text = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py"))[:80])
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    ids = ids[: len(ids) // 128 * 128].reshape(-1, 128)
    model = GPT()
    nn.init.normal_(model.tokens.weight, std=0.02)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for i in range(20):
        batch = ids[samples + 16 * i : samples + 16 * (i + 1)]
        optimizer.zero_grad()
        next_token(model(batch), batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Workload("small GPT", model.eval(), ids[:samples], ids[:samples], next_token)
