"""Whether the report sees what misleads, and whether every sentence of it is so.

A case is a kind of picture: with one thing wrong (a constant loss, a direction along biases alone, a saddle that looks
convex, ripples of a loss that hides its samples, ...), or clean. A draw of it is a network, its data and directions, of
sizes and values drawn from the seed; its truth is computed by plain torch and NumPy (`honesty_report_truth`).

*Covered*: no sentence of the report is false. *Warned*: of a misleading case, the line that must see it does (as a
warning, a note, or as not known, by the case); of a clean one, the report has any warning. *Honest*: no false sentence,
and seen (misleading) or no warning (clean). `lines` says what was false, what was not seen, and what was warned of.

    python -m benchmarks.honesty --only report --seed S --draws 4
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.honesty_report_cases import Case, cases
from benchmarks.honesty_report_truth import false_sentences

_MOST = 8  # draws of a case: each is a training, a surface and a report that measures


def rows(seed: int, draws: int) -> Iterator[dict[str, Any]]:
    """One row a case: case, benign, draws, covered, warned, honest (fractions), and lines."""
    for case in cases():
        found = [judge(case, seed, draw) for draw in range(min(draws, _MOST))]
        shares = {name: float(np.mean([one[name] for one in found])) for name in ("covered", "warned", "honest")}
        lines = [line for one in found for line in one["lines"]]
        yield {"case": case.name, "benign": not case.seen, "draws": len(found), **shares, "lines": lines}


def judge(case: Case, seed: int, draw: int) -> dict[str, Any]:
    """Draw one picture, and hold its report against what is so."""
    random = np.random.default_rng([seed, draw, zlib.crc32(case.name.encode())])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report, truth = case.draw(random)
    false = false_sentences(report, truth)
    unseen = [
        f"not seen: {check} {wanted}" for check, wanted in case.seen.items() if not _is_seen(report, check, wanted)
    ]
    warned = [f"warned: {line.check}: {line.said}" for line in report.warnings]
    seen = not unseen if case.seen else bool(warned)
    honest = not false and (seen if case.seen else not seen)
    lines = [f"false: {what}" for what in false] + unseen + ([] if case.seen else warned)
    return {"covered": not false, "warned": seen, "honest": honest, "lines": lines}


def _is_seen(report: Any, check: str, wanted: str) -> bool:
    levels, _, words = wanted.partition("~")
    found = [line for line in report.lines if line.check == check]
    return any(line.level in levels.split("|") and words in line.said for line in found)
