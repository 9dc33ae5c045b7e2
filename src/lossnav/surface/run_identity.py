"""The identity of a run: its plan, the hash of the plan, and the differences between two plans. No torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lossnav._utils.jsonable import jsonable
from lossnav.storage.keys import StoredDocument

_NOT_OF_THE_PLAN = {  # what may differ, or becomes known, when a run is resumed
    "objective": (
        "samples",
        "batches",
        "data_resident",
        "device",
        "origin",
        "weights",
        "held",
        "moves",
        "layers",
        "buffers",
        "buffers_unread",
        "draws",
        "cut_samples",
        "metric_words",
    ),
    "chart": ("axes",),  # words
    "sampler": ("outcome", "tolerance", "max_points"),  # known points stay valid when more are requested
    "curvature": (),
    "repair": ("samples", "population", "batch_norm_step", "left"),  # these follow from the data and the ends
}


def put_together(attributes: Mapping[str, Any]) -> str:
    """Return the attribute that shows that a surface is not the measurement of one run; empty if it is one."""
    return next((word for word in ("interpolation", "control_variate", "ensemble") if word in attributes), "")


def plan_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two sessions of a run must have in common, from the attributes: "chart.kind" and so on."""
    items = {
        f"{part}.{key}": value
        for part, left_out in _NOT_OF_THE_PLAN.items()
        for key, value in attributes.get(part, {}).items()
        if key not in left_out
    }
    said = StoredDocument(attributes)
    items["objective.device"] = str(said["objective"]["device"]).partition(":")[0]
    items["engine.precision"] = said["engine"].get("precision", "native")
    return items | {name: said[name] for name in ("lossnav_version", "torch_version")}


def plan_hash(attributes: Mapping[str, Any]) -> str:
    """Return 16 hex digits of a SHA-256 over `plan_of`, without digits that depend on the number of threads."""
    items = {
        key: _rounded(value) if _is_computed(key) else value for key, value in jsonable(plan_of(attributes)).items()
    }
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:16]


def differences(there: Mapping[str, Any], asked: Mapping[str, Any], *parts: str) -> list[str]:
    """Return the differences of two runs, one line per item, for some parts ("objective", "chart", …) or all."""
    was, now = plan_of(there), plan_of(asked)
    keys = [key for key in dict.fromkeys([*was, *now]) if not parts or key.partition(".")[0] in parts]
    found = [place for key in keys for place in _different(key, was.get(key), now.get(key))]
    chosen = [place for place in found if not _follows(*place)]
    return [f"{key}: was {_short(one)}, is {_short(other)}" for key, one, other in chosen or found]


def _different(key: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the innermost entries in which two values of JSON differ: "chart.directions[0].seed", 0, 1."""
    if was == now or (_is_computed(key) and _are_close(was, now)):
        return
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*was, *now]):
            yield from _different(f"{key}.{name}", was.get(name), now.get(name))
    elif _are_rows(was) and _are_rows(now) and len(was) == len(now):
        for i, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _different(f"{key}[{i}]", one, other)
    else:
        yield key, was, now


def _are_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value)


def _follows(key: str, was: Any, now: Any) -> bool:
    """Whether a difference within the chart follows from another one: a number or a hash computed from weights."""
    is_hash = key.rpartition(".")[2] in ("fingerprint", "signature")
    return _is_computed(key) and (is_hash or (isinstance(was, float) and isinstance(now, float)))


def mismatch(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return why the points of a surface are not measurements of this objective on this chart; empty if they are.

    The text continues a sentence whose subject is the surface. The sampler may differ.
    """
    if made_by := put_together(there):
        return f"is not the measurement of one run: its attributes contain {made_by}."
    if different := differences(there, asked, "objective", "chart", "engine", "repair"):
        return "is a measurement of something else:\n  " + "\n  ".join(different) + "\n"
    return ""


def is_same(there: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Return whether the attributes of two runs have the same plan."""
    return there.get("plan_hash") == asked["plan_hash"] or not differences(there, asked)


_CLOSE = 1e-9  # norms and cosines are sums, whose last digits depend on the number of threads


def _is_computed(key: str) -> bool:
    """Return whether an item of a plan has numbers computed from weights; seeds and fingerprints are exact."""
    return key.startswith("chart.")


def _are_close(one: Any, other: Any) -> bool:
    """Return whether two JSON values differ only in the last digits of numbers."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_are_close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_are_close(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return bool(one == other)


def _rounded(value: Any) -> Any:
    """Return a JSON value with numbers rounded to nine digits and nine decimals."""
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(float(f"{value:.9g}"), 9) + 0.0 if isinstance(value, float) else value


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 100 else f"{words[:80]} … ({len(words)} characters)"
