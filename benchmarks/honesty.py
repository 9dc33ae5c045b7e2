"""Whether the errors that lossnav states hold: coverage on cases drawn from a seed that anyone may choose.

Each part draws cases with a truth that is known or computed independently, asks lossnav for a number with its error,
and counts. *Covered*: the truth lies within the stated error. *Warned*: lossnav says itself that the error does not
hold. *Honest*: one of the two. On benign cases a warning is false.

    python -m benchmarks.honesty --seed S [--only intervals,adaptive,...] [--draws N] [--quick] [--json]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from benchmarks.common import machine, parts_named

PARTS = (
    "intervals",
    "adaptive",
    "spectra",
    "report",
    "barriers",
)  # benchmarks/honesty_NAME.py has rows(seed, draws)
DRAWS, QUICK_DRAWS = 400, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of every case that is drawn")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--draws", type=int, help=f"draws of each case (default {DRAWS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_DRAWS} draws of each case, to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    asked = parser.parse_args()
    draws = asked.draws or (QUICK_DRAWS if asked.quick else DRAWS)
    found: list[dict[str, Any]] = []
    for row in _rows(parts_named(asked.only, PARTS, "honesty"), asked.seed, draws):
        found.append(row)
        if not asked.json:
            print(_line(row), *(f"    {line}" for line in row.get("lines", [])), sep="\n", flush=True)
    if asked.json:
        import json

        print(json.dumps({"machine": machine(), "seed": asked.seed, "draws": draws, "rows": found}))


def _rows(parts: dict[str, ModuleType], seed: int, draws: int) -> Iterator[dict[str, Any]]:
    """Rows of all parts: part, case, benign, draws; covered, warned and honest as fractions; what else is said."""
    for part, module in parts.items():
        for row in module.rows(seed, draws):
            yield {"part": part, **row}


def _line(row: dict[str, Any]) -> str:
    shares = "  ".join(f"{name} {row[name]:6.1%}" for name in ("covered", "warned", "honest"))
    kind = "benign" if row["benign"] else "      "
    return f"{row['part']:<10} {row['case']:<44} {kind} {row['draws']:>5} draws  {shares}"


if __name__ == "__main__":
    main()
