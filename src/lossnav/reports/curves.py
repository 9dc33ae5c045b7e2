"""Checks of a curve between networks: whether it was trained, on which data, and what that makes of its barrier."""

from __future__ import annotations

from collections.abc import Iterator

from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Finding, unknown
from lossnav.surface.barrier import is_optimised

_KINDS = {"bezier": "Bézier curve", "chain": "chain", "band": "band"}


def check(subject: Subject) -> Iterator[Finding]:
    """Check what a curve with bends can say about the barrier between its ends."""
    chart = subject.attrs.get("chart", {})
    if not is_optimised(chart):
        return
    bends = len(chart["points"]) - 2
    trained = (chart.get("options") or {}).get("trained")
    do = "Call the barrier along it an upper bound."
    if not trained:
        said = f"The curve has {bends} bends that somebody chose: the loss along another curve may be lower."
        yield Finding("curve", "note", said, do, {"bends": bends, "trained": False})
        return
    epochs = trained.get("epochs")
    passes = f"{epochs} pass{'' if epochs == 1 else 'es'}"
    kind, mine = _KINDS.get(str(trained.get("kind")), "curve"), subject.attrs.get("objective", {}).get("data")
    if not mine or not trained.get("data"):
        because = "the data that the curve was trained on, or that of this surface, is not recorded."
        yield unknown("curve", because, do, {"bends": bends, "trained": True, "epochs": epochs})
        return
    same = mine == trained["data"]
    values = {"bends": bends, "trained": True, "epochs": epochs, "same_data": same}
    values |= {"bn": trained.get("bn")}
    where = "on the data of this surface, so the loss between the ends may be lower than on held-out data"
    if not same:
        where = "on other data than that of this surface"
    yield Finding(
        "curve",
        "note",
        f"The {kind} with {bends} bend{'' if bends == 1 else 's'} was trained for {passes} "
        f"{where}. The loss along it is an upper bound for the best path.",
        do if not same else f"{do} Evaluate it on held-out data too.",
        values,
    )
