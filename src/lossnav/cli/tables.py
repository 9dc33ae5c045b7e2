"""Results as text tables, or as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import typer


def as_text(value: Any) -> str:
    """Write a value as JSON."""
    from lossnav._utils.jsonable import jsonable

    return json.dumps(jsonable(value), indent=2, ensure_ascii=False)


def print_result(surface: Any, place: str, as_json: bool = False, rows: dict[str, str] | None = None) -> None:
    """Print the summary and the path of a surface; exit with 3 if points failed."""
    if as_json:
        typer.echo(as_text(surface_values(surface, place)))
    else:
        print_table(summary_words(surface) | (rows or {}))
        typer.echo(str(place))
    if surface.lossnav.counts["failed"]:
        raise typer.Exit(3)


def surface_values(surface: Any, place: str) -> dict[str, Any]:
    """Contents and provenance of a surface as JSON values."""
    sizes = {str(dim): size for dim, size in surface.sizes.items()}
    return {"path": str(place), "sizes": sizes, "summary": surface.lossnav.summary(), **surface.attrs}


def place_words(places: dict[str, list[float]], dims: tuple[str, ...]) -> dict[str, str]:
    """Table rows with the coordinates of checkpoints on a chart."""
    return {
        f"at {', '.join(f'{dim} = {x:.4g}' for dim, x in zip(dims, place, strict=True))}": name
        for name, place in places.items()
    }


def estimate_values(found: Any, seeds: int, whole: Any = None) -> dict[str, Any]:
    """Estimated cost of a run as JSON values."""
    values = {key: value for key, value in vars(found).items() if not key.startswith("_")} | {"seconds": found.seconds}
    return values | {"seeds": seeds} | ({} if whole is None else {"control": estimate_values(whole, 1)})


def print_table(rows: dict[str, str]) -> None:
    """Print two columns."""
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {value}")


def estimate_words(found: Any, seeds: int, whole: Any = None) -> dict[str, str]:
    """Table rows of the estimated cost: of one surface, of several seeds, or of a subset and its control."""
    points = "as many as it takes" if found.points is None else f"{found.points:,}"
    if seeds > 1:
        points += f" for each of {seeds} seeds"
    if whole is not None:
        points += f", and {whole.points:,} with all the data"
    words = {"points": points, "plan": found.plan}
    if found.plan != "plain":
        words["plan error"] = f"{found.plan_error:.2g} relative, the largest at the probes"
    words["before"] = f"{found.checking_seconds:.1f} s to check the centre and find the range"
    words["planning"] = f"{found.planning_seconds:.1f} s"
    if found.compiling_seconds:
        words["planning"] += f", and {found.compiling_seconds:.1f} s for a kernel that is kept"
    words["a point"] = f"{1e3 * found.seconds_per_point:.3g} ms"
    if whole is not None:
        words["a point"] += f", with all the data {1e3 * whole.seconds_per_point:.3g} ms"
    if found.workers > 1:
        words["workers"] = f"{found.workers:,}"
    if found.points is not None:
        words["all of it"] = _in_hours(seeds * found.seconds + (0.0 if whole is None else whole.seconds))
    memory = found.memory if whole is None else max(found.memory, whole.memory)
    if memory == memory:
        words["memory"] = f"{memory / 1e6:,.0f} MB at its peak, Python and torch included"
    return words


def _in_hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _noise_words(outcome: Any) -> str:
    """Standard deviation of the noise, and the number of noisy places among those evaluated twice."""
    noise, repeats = float(outcome["noise"]), bool(outcome.get("noise_repeats"))
    if math.isinf(noise):
        words = "finite once and once not"
    else:
        words = f"{noise:.2g} relative ({'between points' if repeats else 'standard deviation'})"
    if repeats or "places_twice" not in outcome:
        return words
    return f"{words}, at {outcome.get('noise_places', '?')} of {outcome['places_twice']} places evaluated twice"


def summary_words(surface: Any) -> dict[str, str]:
    """Table rows that summarise a run."""
    from lossnav.surface.estimates import estimate_of

    found = surface.lossnav.summary()
    words = {"points": f"{found['points']:,}"}
    if weights := surface.attrs.get("objective", {}).get("weights"):
        words["weights"] = weights["file"] + (f", in it {weights['place']}" if weights["place"] else "")
        if weights["kept"]:
            which = ", ".join(weights["kept"][:2]) + (", ..." if len(weights["kept"]) > 2 else "")
            words["  without"] = f"{len(weights['kept']):,} tensors of the model ({which}): its own are kept"
    words |= {f"  {word}": f"{count:,}" for word, count in found["status"].items() if count and word != "ok"}
    for name, value in found["center"].items():
        words[f"{name} at the centre"] = f"{value:.6g}"
    for name in ("lowest", "highest"):
        if name in found:
            at = ", ".join(f"{dim} = {x:g}" for dim, x in found[name]["at"].items())
            words[f"{name} loss"] = f"{found[name]['loss']:.6g} at {at}"
    outcome = estimate_of(surface.attrs)
    if outcome and "seed" not in surface.dims:
        resolved = outcome["cells"] - outcome["unresolved"]
        words["estimated error"] = (
            f"{float(outcome['estimated_error']):.2g} relative, the largest of {resolved:,} cells; no bound"
        )
        if outcome["unresolved"]:
            untested, worst = int(outcome.get("untested", 0)), float(outcome["estimated_error_p99"])
            words["unresolved"] = f"{outcome['unresolved']:,} of {outcome['cells']:,} cells"
            if untested:
                words["unresolved"] += f", {untested:,} of them untested"
            elif "untested" in outcome and math.isfinite(worst):
                words["unresolved"] += f"; 99 % of all cells are within {worst:.2g}"
        if float(outcome.get("noise", 0)) > 0:
            words["noise"] = _noise_words(outcome)
        if outcome["non_finite"]:
            words["beside holes"] = f"{outcome['non_finite']:,} cells"
    elif own := surface.attrs.get("sampler", {}).get("outcome"):  # of a sampler of the user's own
        words |= {str(key): str(value) for key, value in own.items() if isinstance(value, str | int | float)}
    if "control_variate" in surface.attrs:
        words["residual error"] = f"{float(surface.attrs['control_variate']['residual_error']):.2g} relative"
    if "seconds" in found:
        rate = f" ({float(found['points_per_second']):.3g} points/s)" if "points_per_second" in found else ""
        words["seconds"] = f"{float(found['seconds']):.1f}{rate}"
    return words


def made_words(surface: Any) -> dict[str, str]:
    """Table rows of the recorded provenance of a surface."""
    objective, chart, engine = (
        _KnownAttributes(surface.attrs.get(key, {})) for key in ("objective", "chart", "engine")
    )
    axes = ", ".join(f"{dim}: {size}" for dim, size in surface.sizes.items())
    samples = f", {objective['samples']:,} samples" if objective.get("samples") else ""
    words = {
        "objective": f"{objective['model']}, {objective['loss']}, {objective['parameters']:,} parameters{samples}",
        "fingerprint": str(objective["fingerprint"]),
        "chart": f"{chart['kind']} ({axes})",
    }
    for dim, recipe in zip(chart.get("dims", ()), chart.get("directions", ()), strict=False):
        facts = [f"{key} {recipe[key]}" for key in ("normalize", "distribution", "seed") if key in recipe]
        facts += [f"norm {float(recipe['norm']):.5g}"] if "norm" in recipe else []
        words[f"  {dim}"] = ", ".join([recipe["kind"], *facts])
    for point in chart.get("points", ()):
        norm = f", norm {float(point['norm']):.5g}" if "norm" in point else ""
        words[f"  {point['name']}"] = f"control point {point['fingerprint'][:12]}{norm}"
    words |= {f"  cosine {pair}": f"{float(cosine):.2g}" for pair, cosine in chart.get("cosines", {}).items()}
    words["BatchNorm"] = str(objective["bn"])
    words["computed"] = f"{objective['dtype']} on {objective['device']}, {engine['kind']}, plan: {engine['plan']}"
    if engine.get("plan_probes"):
        probes = engine["plan_probes"]
        words["plan error"] = f"{float(engine['plan_error']):.2g} relative, the largest at {probes} probes"
        if differing := {name: n for name, n in engine.get("plan_differing", {}).items() if n}:
            counts = ", ".join(f"{name} {n:,}" for name, n in differing.items())
            words["  rounding"] = f"decides {counts} of {engine['plan_compared']:,} samples at these"
        words["planning"] = f"{float(engine.get('plan_seconds', 0.0)):.1f} s"
    made = _KnownAttributes(surface.attrs)
    words["created"] = f"{made['created']} by lossnav {made['lossnav_version']}"
    return words


class _Unknown(str):
    """Placeholder for a missing attribute; ignores format specifiers."""

    def __format__(self, how: str) -> str:
        return str(self)


class _KnownAttributes(dict[str, Any]):
    """Attributes of which a missing or null one reads as "unknown"."""

    def __missing__(self, key: str) -> Any:
        return _Unknown("unknown")

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return self.__missing__(key) if value is None else value


def spectrum_words(spectrum: Any) -> dict[str, str]:
    """Table rows of a spectrum: each number with its error, and the cost."""
    said = spectrum.attrs
    names = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton matrix"}
    entries = f"{said['parameters']:,} parameters"
    if said["excluded"]:
        entries += f", without {len(said['excluded'])} tensors"
    words = {
        "matrix": f"{names[said['operator']]} of {said['objective']['model']}, {entries}",
        "loss": f"{float(said['loss']):.6g}" + (f" ± {float(said['loss_se']):.2g}" if "loss_se" in said else ""),
        "gradient norm": f"{float(said['gradient_norm']):.3g}",
    }
    columns = (spectrum[name].values.tolist() for name in ("end", "eigenvalue", "eigenvalue_error"))
    counts: dict[str, int] = {}
    for end, value, error in zip(*columns, strict=True):
        counts[end] = counts.get(end, 0) + 1
        words[f"{end} {counts[end]}"] = f"{value:.6g}  within {error:.1g}"
    if "trace" in said:
        made = {name: float(said["trace"][name]) for name in ("value", "error")}
        words["trace"] = f"{made['value']:.6g} ± {made['error']:.2g}, by {said['trace']['method']}"
    if "density" in said:
        made = {name: float(said["density"]["mean"][name]) for name in ("value", "error")}
        words["mean eigenvalue"] = f"{made['value']:.4g} ± {made['error']:.2g}"
        words["density"] = (
            f"{said['density']['probes']} probes of {said['density']['steps']} steps, "
            f"width {float(said['density']['width']):.3g}"
        )
    words["cost"] = f"{said['passes']:,} passes over the data, {said['products']:,} products, {said['seconds']:.1f} s"
    return words
