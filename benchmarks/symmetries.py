"""Symmetries of some sixty networks: groups, proofs, the share of weights that move; and planted permutations.

python -m benchmarks.symmetries            all networks, and 100 planted permutations of each of four
python -m benchmarks.symmetries --quick    the nine small networks, and 5 of each

`silent changes` counts networks whose outputs change by more than 1e-10 of their largest when all groups are permuted
at random and the weights are loaded into the model itself, in float64, by plain torch (in models that compute in
float32 on their own: by more than 1e-4). Beside it what rebasin 0.0.47 does to the nine small networks, where it is
installed, or in the folder named by LOSSNAV_PEERS: ``pip install --no-deps --target DIR rebasin torchview graphviz
tqdm``.
"""

from __future__ import annotations

import copy
import importlib
import logging
import os
import sys
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

import lossnav as ln
from benchmarks import symmetry_networks as networks
from benchmarks.common import Told, machine, options, report
from benchmarks.symmetry_hugging_face import Network
from lossnav.params import Checkpoint

EXACT, ROUNDING = 1e-10, 1e-4


def outputs(model: nn.Module, example: Any) -> Tensor:
    """The outputs of a model on an example, by plain torch."""
    args = () if isinstance(example, dict) else example if isinstance(example, tuple) else (example,)
    with torch.no_grad():
        made = model(*args, **(example if isinstance(example, dict) else {}))
    made = getattr(made, "logits", made)
    return made if isinstance(made, Tensor) else made.last_hidden_state


def double(example: Any) -> Any:
    """An example in float64, as far as it is floating-point."""
    if isinstance(example, dict):
        return {name: double(part) for name, part in example.items()}
    if isinstance(example, tuple):
        return tuple(double(part) for part in example)
    return example.double() if example.is_floating_point() else example


def change(before: Tensor, after: Tensor) -> float:
    """Largest difference, as a fraction of the largest output."""
    return float((before - after).abs().max() / before.abs().max())


def state_of(model: nn.Module) -> Checkpoint:
    """Weights and buffers."""
    params = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return Checkpoint(params, dict(model.named_buffers()))


def look_at(name: str) -> dict[str, Any]:
    """Find the symmetries of a network, and load permuted weights into it."""
    torch.manual_seed(0)
    model, example = networks.ALL[name]()
    start = time.perf_counter()
    found = ln.symmetries(model, example)
    seconds = time.perf_counter() - start
    own, given = copy.deepcopy(model).double().eval(), double(example)
    try:
        before, casts = outputs(own, given), _casts(own, given)
    except RuntimeError:  # it has no kernel for float64
        own, given, casts = model.eval(), example, True
        before = outputs(own, given)
    made = found.permute(state_of(own), found.draw(1))
    own.load_state_dict({n: t.clone() for n, t in (dict(made) | made.buffers).items()}, strict=False)
    loaded = change(before, outputs(own, given))
    return {
        "groups": len(found.groups),
        "within": sum(group.within is not None for group in found.groups),
        "moved": len(found.moved),
        "weights": len(found.weights),
        "share moved": round(len(found.moved) / len(found.weights), 3),
        "proof error alone": max((group.error for group in found.groups), default=0.0),
        "proof error jointly": found.error,
        "loaded, by plain torch": loaded,
        "silently changed": bool(found.error > EXACT or loaded > (ROUNDING if casts else EXACT)),
        "refused": dict(found.refused),
        "without rule": dict(found.without_rule),
        "seconds": round(seconds, 2),
    }


def _casts(model: nn.Module, example: Any) -> bool:
    """Whether a model in float64 computes in float32 on its own somewhere."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            given = any(isinstance(a, Tensor) and a.dtype == torch.float64 for a in args)
            found.append(given and isinstance(made, Tensor) and made.dtype == torch.float32)
            return made

    with Watch():  # type: ignore[no-untyped-call]
        outputs(model, example)
    return any(found)


# ---------------------------------------------------------------------- planted permutations


class ResidualMLP(nn.Module):
    """A residual stream of 24 with three blocks."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(6, width), nn.Linear(width, 4)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.before(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        out: Tensor = self.after(x)
        return out


PLANTED: dict[str, Network] = {
    "MLP": networks.TINY["MLP of modules"],
    "CNN with BatchNorm": networks.TINY["ResNet with BatchNorm"],
    "residual MLP": lambda: (ResidualMLP(), torch.randn(8, 6)),
    "small GPT": networks.TINY["GPT, fused qkv, tied head"],
}


def planted(name: str, seeds: int) -> str:
    """In how many of so many seeds a permuted copy comes back to the bit, with ten starts and with the first alone."""
    counts = [0, 0]
    for seed in range(seeds):
        torch.manual_seed(seed)
        model, example = PLANTED[name]()
        found = ln.symmetries(model, example)
        here = state_of(model)
        away = found.permute(here, found.draw(seed + 1000))
        for k, restarts in enumerate((10, 1)):
            made = ln.align(model, away, restarts=restarts, data=example, seed=seed, symmetries=found)
            counts[k] += all(torch.equal(made.params[n], t) for n, t in here.items())
    return f"{counts[0]} of {seeds} (first start alone: {counts[1]})"


# ---------------------------------------------------------------------- a peer


def rebasin(name: str) -> str:
    """What rebasin does to one network: its outputs after it permuted its weights towards another's."""
    try:
        package = importlib.import_module("rebasin")
    except ImportError:
        return "not installed"
    torch.manual_seed(0)
    (a, example), (b, _) = networks.TINY[name](), networks.TINY[name]()
    a, b, example = a.double().eval(), b.double().eval(), double(example)
    before = outputs(b, example)
    try:
        rebasing = package.PermutationCoordinateDescent(a, b, example, logging_level="error")
        rebasing.rebasin()
    except Exception as error:
        return f"raises {type(error).__name__}"
    return f"changes the outputs by {change(before, outputs(b, example)):.1e}"


def main() -> None:
    """Run it."""
    given = options(__doc__ or "")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.path.append(os.environ.get("LOSSNAV_PEERS", ""))
    result: dict[str, Any] = Told(machine=machine())
    names = list(networks.TINY) if given.quick else list(networks.ALL)
    changed, shares = 0, {}
    for name in names:
        try:
            row = look_at(name)
        except ImportError as error:
            result[name] = f"not looked at: {error}"
            continue
        result[name] = row
        changed += row["silently changed"]
        shares[name] = row["share moved"]
    result["networks"], result["silent changes"] = len(shares), changed
    for name in PLANTED:
        result[f"planted, {name}"] = planted(name, given.rounds or (5 if given.quick else 100))
    for name in networks.TINY:
        result[f"rebasin, {name}"] = rebasin(name)
    report(result, given.json)


if __name__ == "__main__":
    main()
