"""What every benchmark needs: paired timing, the machine's name, words or JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def options(description: str, only: str | None = None, keep: bool = False, cpu: bool = False) -> argparse.Namespace:
    """Parse ``--quick`` and ``--json``; where they mean something ``--only``, ``--keep`` and ``--cpu``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if only is not None:
        parser.add_argument("--only", default=only, help=f"some of {only}")
    if keep:
        parser.add_argument("--keep", type=Path, help="folder to keep references in, and to take them from")
    if cpu:
        parser.add_argument("--cpu", action="store_true", help="by processor time: on a machine shared with others")
    parser.add_argument("--rounds", type=int, help="timed rounds, in place of the benchmark's own number")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes, to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def parts_named(names: str, known: Sequence[str], family: str) -> dict[str, ModuleType]:
    """The modules benchmarks/FAMILY_NAME.py of some parts, loaded before any begins: a long run does not end on one."""
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        raise SystemExit(f"--only names {unknown[0]!r}. Choose some of {','.join(known)}.")
    try:
        return {name: importlib.import_module(f"benchmarks.{family}_{name}") for name in names.split(",")}
    except ModuleNotFoundError as error:
        raise SystemExit(f'{error}. Install what benchmarks need: pip install -e ".[dev]".') from error


def paired(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time each contender once a round, interleaved, after one round that does not count.

    Returns
    -------
    dict of str to list of float
        Seconds, one a round: entry i of all contenders were measured next to each other.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Median over the rounds of how many times longer `slow` took than `fast`."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


class Told(dict[str, Any]):
    """Results that are said on stderr as they come: a run of an hour that is ended early has said what it knew."""

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        print(f"{name}: {value}", file=sys.stderr, flush=True)

    def __ior__(self, other: Any) -> Told:  # type: ignore[override,misc]
        for name, value in dict(other).items():
            self[name] = value
        return self


def machine() -> dict[str, Any]:
    """Name the hardware and the versions that matter."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if (cpuinfo.exists())
        else []
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def report(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a result: one JSON object, or a line a number."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<42} {value:.4g}" if isinstance(value, float) else f"{name:<42} {value}")
