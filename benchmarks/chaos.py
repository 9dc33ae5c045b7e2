"""Nothing lost, nothing let in: kills, signals, full disks, two writers, threads, hostile stores and messages, clocks.

Each part draws attempts from the seed and makes them through the public commands: ``lossnav ...`` in processes that are
forked from one that has lossnav imported, in processes of their own, and public calls of Python. Counted are attempts,
those that survived, and what must be 0: points that were *lost*, values that are *wrong*, code of a store that was
*executed*, *tracebacks*, *hangs* (of what answers, more than 10 s, not counting when it waited for a processor), and
processes *above* 1 GB. The exit code is 1 where one of these is not 0.

    python -m benchmarks.chaos --seed S [--only stores,kills,...] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.chaos_commands import ZERO, Commands
from benchmarks.common import machine, parts_named

# benchmarks/chaos_NAME.py has run(seed, count, folder, commands), COUNT and QUICK
PARTS = ("stores", "kills", "writers", "threads", "messages", "signals", "disks", "clocks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a few attempts of each, to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in _rows(parts_named(asked.only, PARTS, "chaos"), asked.seed, asked.quick):
        rows.append(row)
        if not asked.json:
            print(_line(row), flush=True)
    if asked.json:
        print(json.dumps({"machine": machine(), "seed": asked.seed, "rows": rows}))
    raise SystemExit(int(any(row[name] for row in rows for name in ZERO)))


def _rows(parts: dict[str, ModuleType], seed: int, quick: bool) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, Commands(Path(folder)) as commands:
        for part, module in parts.items():
            (place := Path(folder) / part).mkdir()
            tally = module.run(seed, module.QUICK if quick else module.COUNT, place, commands)
            yield {"part": part, **tally.row()}


def _line(row: dict[str, Any]) -> str:
    counts = "  ".join(f"{name} {row[name]}" for name in ("attempts", "survived", *ZERO))
    return (
        f"{row['part']:<9} {counts}\n          {', '.join(f'{name}: {value}' for name, value in row['said'].items())}"
    )


if __name__ == "__main__":
    main()
