"""Checks of the curvature at the centre: whether it is a saddle, and whether the picture is typical of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lossnav.reports import thresholds
from lossnav.reports.evidence import Subject, gram_of
from lossnav.reports.findings import Finding, unknown
from lossnav.reports.fit import Fit

_ENDS = {"lambda_max": "λmax", "lambda_min": "λmin"}
_ALIKE = 1e-3  # relative: curvatures that differ by less look the same


def saddle(subject: Subject, known: Mapping[str, Any], found: Fit | None, *, stationary: bool) -> Finding:
    """Compare the curvature of the slice with the extreme eigenvalues (Böttcher and Wheeler 2022)."""
    convex, slice_words = _looks(known, found)
    low, high = known.get("lambda_min"), known.get("lambda_max")
    error = known.get("lambda_min_error", math.inf)
    values: dict[str, Any] = {"lambda_min": low, "lambda_min_error": error, "lambda_max": high, "looks_convex": convex}
    if found is not None:
        values |= {"slice": found.eigenvalues.tolist(), "slice_error": found.error}
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(error):
        because = (
            f"the extreme eigenvalues of the Hessian were not measured. {slice_words} A random slice shows "
            "about the mean "
            "eigenvalue, so a saddle may look like a minimum."
        )
        return unknown("saddle", because, subject.how_to_measure, values)
    ratio = -low / high if high > 0 else math.inf
    values |= {"ratio": ratio, "source": known.get("source")}
    hessian = _hessian(subject, known)
    ends = f"λmin = {low:.3g} ± {error:.1g}, λmax = {high:.3g}"
    if low + error >= 0:
        negligible = _negligible(subject)
        if not low - error >= -max(thresholds.SADDLE * high, negligible):  # it may be negative within its error
            because = f"the error of the smallest eigenvalue is too large: {ends}. {slice_words}"
            return unknown(
                "saddle", because, "Allow more products: ln.report(…, objective=objective, limit=1000).", values
            )
        said = f"{slice_words} {hessian} has no negative eigenvalue beyond its error: {ends}."
        return Finding("saddle", "ok", said, values=values)
    if known.get("bends_down") is False:
        because = (
            f"along the eigenvector of the smallest eigenvalue ({ends}) the loss itself does not curve "
            "downwards: it has "
            f"a kink or ripples at the centre, which a Hessian does not describe. {slice_words}"
        )
        return unknown("saddle", because, "Look along it: ln.directions.hessian(objective, n=2).", values)
    if convex is False:
        said = f"{slice_words} {hessian} has negative eigenvalues too: {ends}."
        return Finding("saddle", "ok", said, values=values)
    if thresholds.SADDLE < ratio <= (noise := _noise_of_subset(subject)):
        return Finding(
            "saddle",
            "note",
            f"{slice_words} {hessian} has a negative eigenvalue, {low:.3g} ± {error:.1g} ({ratio:.1%} of the largest, "
            f"{high:.3g}), on this subset: on all the data it may have none, since the choice of samples changes it by "
            f"about {noise / thresholds.SURE:.1%}.",
            "Measure it on all the data before you describe it as a saddle.",
            values,
        )
    if ratio > thresholds.SADDLE:
        bends = "the loss curves downwards along a direction that is not drawn."
        part = f"{ratio:.0%} of the largest" if math.isfinite(ratio) else "and none is positive"
        what = (
            f"This slice looks convex but {hessian[0].lower()}{hessian[1:]}" if convex else f"{slice_words} {hessian}"
        )
        return Finding(
            "saddle",
            "warning",
            f"{what} has eigenvalue {low:.3g} ± {error:.1g} ({part}, {high:.3g}): "
            + (f"the centre is a saddle{'' if ratio < math.inf else ' or a maximum'}." if stationary else bends),
            "Look along its eigenvectors: ln.directions.hessian(objective, n=2).",
            values,
        )
    return Finding(
        "saddle",
        "note",
        f"{slice_words} {hessian} has a negative eigenvalue, {low:.3g} ± {error:.1g}, which is small: "
        f"{ratio:.2%} of the largest, {high:.3g}.",
        "Describe it as “nearly convex”; along that eigenvector the loss decreases slowly.",
        values,
    )


def _negligible(subject: Subject) -> float:
    """Return a curvature that is invisible in the middle of the picture; 0 if its reach is unknown."""
    return 0.0 if subject.reach is None else 2 * thresholds.NOT_QUITE * subject.relief / subject.reach**2


def _noise_of_subset(subject: Subject) -> float:
    """Return two standard errors of an eigenvalue over the choice of a subset, relative to the largest; else 0.

    It assumes that the curvature of single samples varies by as much as the largest eigenvalue: s / sqrt(n), without
    replacement.
    """
    samples, population = subject.objective.get("samples"), subject.objective.get("population")
    if not samples or not population:
        return 0.0
    return thresholds.SURE * math.sqrt(max(0.0, 1 - samples / population) / samples)


def _hessian(subject: Subject, known: Mapping[str, Any]) -> str:
    """Return a description of the Hessian that the eigenvalues belong to."""
    held = int(subject.objective.get("parameters_held") or 0)
    if known.get("excluded"):
        return f"The Hessian at its centre, without {len(known['excluded'])} excluded tensors,"
    return "The Hessian at its centre" + (", of the parameters that move," if held else "")


def _looks(known: Mapping[str, Any], found: Fit | None) -> tuple[bool | None, str]:
    """Return whether the picture looks convex at its centre (None: undecided), and a sentence about it."""
    if found is not None:
        low, high = (float(value) for value in found.eigenvalues[[0, -1]])
        curves = " and ".join(f"{value:.3g}" for value in dict.fromkeys((low, high)))
        curves += f" ± {found.error:.1g}"
        if max(abs(low), abs(high)) <= found.error:
            return None, f"The curvature of this slice at its centre is within its error ({curves}, from its points)."
        convex, words = _seems(
            low, high, found.error, "This slice", f" at its centre (curvature {curves} by its points)"
        )
        return convex, words + _finer(known, found)
    least, most = known.get("lambda_min_in_plane"), known.get("lambda_max_in_plane")
    if least is None or most is None or not math.isfinite(least):
        return None, "The points do not determine the curvature at the centre."
    convex = _seems(least, most, 0.0, "", "")[0]
    return convex, f"Within the slice the Hessian has eigenvalues {least:.3g} to {most:.3g}."


def _finer(known: Mapping[str, Any], found: Fit) -> str:
    """Return a sentence about the Hessian within the slice if it differs from the points; else nothing."""
    measured = np.asarray(known.get("hessian_in_plane"), np.float64)  # None where one is not finite
    if measured.shape != found.hessian.shape or not np.isfinite(measured).all():
        return ""
    values = np.linalg.eigvalsh(measured)
    off, size = float(np.abs(values - found.eigenvalues).max()), float(np.abs(found.eigenvalues).max())
    if off <= thresholds.SURE * found.error + thresholds.OTHERWISE * size:
        return ""
    curves = " and ".join(f"{value:.3g}" for value in dict.fromkeys(values[[0, -1]].tolist()))
    how = "there is a kink, or structure finer than the points"
    return f" Exactly at the centre its curvature is {curves}: {how}."


def _seems(low: float, high: float, error: float, what: str, where: str) -> tuple[bool | None, str]:
    """Return whether a slice with these extreme curvatures looks convex (None: undecided), and a sentence."""
    if low >= error and high > 0:
        return True, f"{what} looks convex{where}."
    if high > error and -thresholds.HARDLY_BENT * high <= low:
        slight = "except for a slight negative curvature" if low < -error else "within its error"
        return True, f"{what} looks convex{where}, {slight}."
    if low < -error:
        return False, f"{what} does not look convex{where}."
    return (
        None,
        f"{what} is curved{where}, along one direction by less than the error, so it may or may not be convex.",
    )


# ---------------------------------------------------------------------- its mean and largest curvature


def mean(subject: Subject, known: Mapping[str, Any], found: Fit | None) -> Finding:
    """Compare the curvature of the picture with other random directions, the mean eigenvalue, and the largest."""
    others, trace = subject.facts.get("random_curvature", {}), known.get("trace")
    ends = {word: known[name] for name, word in _ENDS.items() if known.get(name) is not None}
    here = _here(subject, known, found)
    if here is None:
        because = "the points do not determine the curvature at the centre of the picture."
        return unknown("mean curvature", because, subject.how_to_measure)
    curves = _listed(here.along) + (f" ± {here.error:.1g}" if here.error else "")
    if not others and trace is None and not ends:
        because = f"no other curvature was measured to compare with that of the picture ({curves})."
        return unknown("mean curvature", because, subject.how_to_measure)
    values: dict[str, Any] = {"curvature": here.along, "curvature_error": here.error, "per_length": here.per_length}
    values |= {"lambda_max": known.get("lambda_max"), "strongest_drawn": here.strongest}
    words = [f"The curvature along the directions of this picture is {curves}"]
    untypical = False
    if others:
        mean, spread, count = (float(others[name]) for name in ("mean", "spread", "count"))
        words.append(f"along {count:.0f} other random directions it is {mean:.3g} ± {spread:.2g}")
        allowed = thresholds.UNTYPICAL * spread * math.sqrt(1 + 1 / count) + here.error + _ALIKE * abs(mean)
        untypical = any(abs(value - mean) > allowed for value in here.along)
        values |= {"others": dict(others)}
    if here.per_length is not None:
        words.append(f"per unit length of this picture's directions it is {_listed(here.per_length)}")
    if trace is not None and known.get("parameters"):
        mean, error = (float(trace[name]) / float(known["parameters"]) for name in ("value", "error"))
        words.append(f"the mean eigenvalue (trace/N) is {mean:.3g} ± {error:.1g}")
        values |= {"trace": dict(trace), "mean_eigenvalue": mean, "mean_eigenvalue_error": error}
    words += [f"{word} {value:.3g}" for word, value in ends.items()]
    said = "; ".join(words)
    if untypical:
        return Finding(
            "mean curvature",
            "note",
            f"{said}: this picture is not typical of such directions.",
            "Look at several seeds: ln.ensemble.",
            values,
        )
    if ends and here.strongest is not None:
        word = max(ends, key=lambda each: abs(ends[each]))
        drawn, steepest = here.strongest + here.strongest_error, abs(float(ends[word]))
        if steepest > thresholds.FAR_BELOW * drawn:
            sure = here.strongest > here.strongest_error
            times = steepest / (here.strongest if sure else drawn) if drawn > 0 else math.inf
            many = f"{float(f'{times:.2g}'):,.0f} times as strong as" if times < math.inf else "which exceeds"
            return Finding(
                "mean curvature",
                "note",
                f"{said}: the strongest curvature ({word}) is along a direction that is not drawn, "
                f"{'' if sure or not drawn else 'more than '}{many} what is drawn.",
                "Do not judge sharpness by this picture; use λmax or ln.directions.hessian(objective).",
                values,
            )
    if not others and (here.per_length is None or not (ends or values.get("mean_eigenvalue"))):
        because = (
            "the curvature of the picture and the eigenvalues have different units, and no other random directions "
        )
        return unknown("mean curvature", f"{because}were measured. {said}.", subject.how_to_measure, values)
    return Finding("mean curvature", "ok", f"{said}.", values=values)


class _Here(NamedTuple):
    """Second derivatives at the centre, by the coordinates and, if lengths are known, per unit length.

    Attributes
    ----------
    along, error : list of float, float
        By each coordinate; the error is that of the fit, 0 if measured.
    per_length : list of float or None
        Along each direction of the picture, per unit length.
    strongest, strongest_error : float or None, float
        The largest in absolute value along any direction in the picture, per unit length.
    """

    along: list[float]
    error: float
    per_length: list[float] | None = None
    strongest: float | None = None
    strongest_error: float = 0.0


def _here(subject: Subject, known: Mapping[str, Any], found: Fit | None) -> _Here | None:
    """Return the curvature of the picture at its centre: measured, or else from the points."""
    measured, error = known.get("hessian_in_plane"), 0.0
    if measured is not None and np.isfinite(np.asarray(measured, np.float64)).all():
        hessian = np.asarray(measured, np.float64)
    elif found is not None:
        hessian, error = found.hessian, found.error
    else:
        return None
    gram = known.get("gram")
    gram = gram_of(subject.chart) if gram is None else np.asarray(gram, np.float64)
    along = hessian.diagonal().tolist()
    if gram is None or gram.shape != hessian.shape or not np.linalg.eigvalsh(gram)[0] > 0:
        return _Here(along, error)
    per_length = (hessian.diagonal() / gram.diagonal()).tolist()
    root = np.linalg.inv(np.linalg.cholesky(gram))  # of an orthonormal basis of the plane
    strongest = float(np.abs(np.linalg.eigvalsh(root @ hessian @ root.T)).max())
    return _Here(along, error, per_length, strongest, error / float(np.linalg.eigvalsh(gram)[0]))


def _listed(values: list[float]) -> str:
    return " and ".join(f"{value:.3g}" for value in values)
