"""Checks of what lies between networks: whether the statistics of their units are repaired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Finding, unknown


def check(subject: Subject) -> Iterator[Finding]:
    """Check a surface of a chart between networks."""
    if not subject.objective:
        return
    said = subject.attrs.get("repair")
    if said is not None:
        yield _repaired(said, str(subject.objective.get("bn")))
    elif any(recipe.get("kind") in ("between", "through") for recipe in subject.recipes):
        yield Finding(
            "repair",
            "ok",
            "The units are not repaired: between the networks they have the statistics that interpolated weights give "
            "them.",
            "If a barrier is found, see what is left of it with repair=training data (REPAIR).",
        )


def _repaired(said: Mapping[str, Any], bn: str) -> Finding:
    """Say which layers were repaired, on what, and what was left."""
    if "layers" not in said:
        because = "the surface records that it was repaired, but not which layers."
        return unknown("repair", because, "Evaluate it with this version of lossnav.")
    layers, left, norms = list(said["layers"]), dict(said["left"]), list(said["batch_norm"])
    without = list(said["without_bias"])
    step = float(said.get("batch_norm_step") or 0.0)
    samples = "all samples" if said.get("samples") is None else f"{int(said['samples']):,} samples"
    words = [
        f"Between the networks, mean and standard deviation of the units of {_count(layers, 'layer')} are interpolated"
    ]
    words[0] += f" (REPAIR, on {samples} of the repair data, seed {said['seed']}); at the networks nothing is changed"
    if norms:
        words.append(f"the statistics of {_count(norms, 'BatchNorm layer')} are recomputed")
    if without:
        words.append(
            f"{_count(without, 'layer')} without a bias: only the standard deviation is set ({_some(without)})"
        )
    others = [name for name, reason in left.items() if not reason.startswith("a last layer")]
    if others:
        words.append(f"{_count(others, 'weight')} left as they are ({_some(others)}: {left[others[0]]})")
    values = {"layers": len(layers), "batch_norm": len(norms), "without_bias": without, "left": left, "step": step}
    jumps = bool(norms) and bn == "frozen" and step > thresholds.STATISTICS_STEP
    if jumps:
        words.append(
            f"the running means of the networks themselves are up to {step:.2g} standard deviations from those of the "
            "repair data, so the loss jumps beside them"
        )
    do = "Say in the caption that the picture is of repaired networks."
    if jumps:
        do = "Recompute the statistics of the networks on the repair data, or use Objective(..., bn='recompute')."
    return Finding("repair", "warning" if jumps else "note", f"{'; '.join(words)}.", do, values)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _count(names: list[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"
