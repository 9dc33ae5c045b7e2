"""The schema of docs/schema.md as validators of the attributes and arrays of a store.

A store is data that somebody else may have made or damaged. Its documents are validated completely when it is opened,
so that other code can rely on an open surface. Keys that are not described here are left unchanged. Sizes are bounded
before anything is allocated. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lossnav._utils.geometry import unpacked

Check = Callable[[Any, str], None]  # raises WrongError; the second argument says where the value stands

NAME = 255  # characters of a name: a metric, a dim; file systems hold no longer one
RESERVED = (  # names that no value of a point has
    "status", "point", "seed", "row", "column", "sample", "sample_loss", "sample_weight",
)  # fmt: skip
MOST_DIMS = 8
MOST_VALUES = 2**24  # of a chunk; and of what is declared and not there
SPARSE = 1000  # what is there may be so many times smaller than what it declares
LARGEST = 1e100  # of a coordinate: its square, and that of a range, are finite


class WrongError(Exception):
    """A value is not of its kind."""

    def __init__(self, where: str, wanted: str, value: Any) -> None:
        words = repr(value)
        super().__init__(f"{where} is {words if len(words) <= 60 else words[:50] + ' …'}, and must be {wanted}")


# ---------------------------------------------------------------------- kinds of values


def text(value: Any, where: str) -> None:
    """A string."""
    if not isinstance(value, str):
        raise WrongError(where, "a text", value)


def name(value: Any, where: str) -> None:
    """A string that can name a thing: not empty, not endless, without control characters."""
    if not isinstance(value, str) or not 0 < len(value) <= NAME or not value.isprintable():
        raise WrongError(where, f"a name of up to {NAME} characters", value)


def boolean(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise WrongError(where, "true or false", value)


def count(value: Any, where: str) -> None:
    """A whole number, none below zero."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise WrongError(where, "a whole number of 0 or more", value)


def whole(value: Any, where: str) -> None:
    """A whole number, such as a seed."""
    if isinstance(value, bool) or not isinstance(value, int) or not abs(value) < 2**64:
        raise WrongError(where, "a whole number", value)


def number(value: Any, where: str) -> None:
    """A number, or a word for one that JSON lacks."""
    if value in ("inf", "-inf", "nan"):
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1.7e308:
        raise WrongError(where, 'a number, or "inf", "-inf" or "nan"', value)


def coordinate(value: Any, where: str) -> None:
    """A finite number whose square is finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise WrongError(where, f"a number up to {LARGEST:g}", value)


def packed_or(kind: Check, most: float | None = None) -> Check:
    """A list of a kind, or a text that many numbers, none above `most`, were put into (`geometry.packed`)."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str):
            return kind(value, where)
        try:
            numbers = unpacked(value)
        except ValueError:
            raise WrongError(where, "a list, or Base64 of numbers of eight bytes", value) from None
        if most is not None and not (abs(numbers) <= most).all():
            raise WrongError(where, f"made of numbers up to {most:g}", value)

    return check


def finite(value: Any, where: str) -> None:
    """A number that is one: neither infinite nor none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1.7e308:
        raise WrongError(where, "a finite number", value)


def texts(value: Any, where: str) -> None:
    """A string, or a list of strings."""
    list_of(text)([value] if isinstance(value, str) else value, where)


def anything(value: Any, where: str) -> None:
    """Any value of JSON."""


def maybe(kind: Check) -> Check:
    """Of a kind, or null."""
    return lambda value, where: None if value is None else kind(value, where)


def list_of(kind: Check, least: int = 0, most: int = 10**7) -> Check:
    """A list whose entries are of a kind."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise WrongError(where, f"a list of {least} or more" if least else "a list", value)
        for i, part in enumerate(value):
            kind(part, f"{where}[{i}]")

    return check


def map_of(kind: Check) -> Check:
    """A mapping of names to values of a kind."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise WrongError(where, "a mapping", value)
        for key, part in value.items():
            kind(part, f"{where}.{key}"[:200])

    return check


def record(**parts: Check) -> Check:
    """A mapping with these parts; those whose name ends in ``_`` may be absent. There may be others."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise WrongError(where, "a mapping", value)
        for key, kind in parts.items():
            part = key.removesuffix("_")
            if part in value:
                kind(value[part], f"{where}.{part}".lstrip("."))
            elif part == key:
                raise WrongError(where or "the whole", f'a mapping with "{key}"', sorted(value)[:8])

    return check


def by_kind(kinds: Mapping[str, Check], every: Check) -> Check:
    """A mapping whose ``kind`` says what else is in it, beside what every kind may have."""

    def check(value: Any, where: str) -> None:
        record(kind=text)(value, where)
        every(value, where)
        kinds.get(value["kind"], anything)(value, where)

    return check


# ---------------------------------------------------------------------- attributes

_maps, _texts, _names = map_of(anything), list_of(text), list_of(name)
_coordinates = packed_or(list_of(list_of(coordinate)), LARGEST)

_recipe = by_kind(
    {
        "random": record(
            normalize_=maybe(text), distribution_=text, excluded_=_texts, filters_left_out_=count,
            orthogonal_=boolean, lazy_=boolean,
        ),
        "pca": record(
            explained=number, random_walk=number, index=count, scale_=anything, snapshots_=count,
            steps_=list_of(count), norm_drift_=number,
        ),
        "hessian": record(
            eigenvalue=number, error=number, index=count, which_=text, tolerance_=number, limit_=count, precision_=text,
        ),
        "gradient": record(precision_=text),
        "between": record(start=anything, end=anything),
        "through": record(
            points=list_of(anything, 1), places=list_of(list_of(coordinate), 1), orthogonal=anything, index=count,
        ),
        "moment": record(moment=text, step=anything),
    },
    record(
        norm_=finite, norms_=map_of(finite), index_=count, n_=count, seed_=maybe(whole), exclude_=maybe(texts),
        times_=number, words_=text,
    ),
)  # fmt: skip

_buffers = record(
    points=list_of(record(at=list_of(coordinate), fingerprint_=maybe(text))), others=anything, names_=_texts
)

_parts_of_a_chart = record(
    kind_=name, dims=list_of(name, 1, 64), directions_=list_of(_recipe, 0, 64), affine_=boolean, center_=maybe(text),
    center_norm_=number, cosines_=map_of(number), buffers_=maybe(_buffers), axes_=map_of(text),
    points_=list_of(record(name=text, fingerprint=text, norm_=number), 1, 10**4), options_=map_of(anything),
    signature_=list_of(maybe(number), 0, 64), origin_=list_of(coordinate, 1, 64),
)  # fmt: skip


def _chart(value: Any, where: str) -> None:
    """A chart; one that is affine has a direction for each coordinate."""
    _parts_of_a_chart(value, where)
    directions = value.get("directions")
    if value.get("affine") and directions and len(directions) != len(value["dims"]):
        raise WrongError(f"{where}.directions", f"one for each of {len(value['dims'])} coordinates", len(directions))


def _ends(value: Any, where: str) -> None:
    """Low, high, and of a grid how many points: no more than a surface can have."""
    list_of(coordinate, 2, 3)(value, where)
    if len(value) == 3 and not (float(value[2]).is_integer() and 0 < value[2] <= MOST_VALUES):
        raise WrongError(where, f"ends and a number of points up to {MOST_VALUES:,}", value)


_outcome = record(
    points_=count, cells_=count, unresolved_=count, untested_=count, non_finite_=count, places_twice_=count,
    estimated_error_=number, estimated_error_p99_=number, noise_=number, noise_largest_=number, noise_of_range_=number,
    noise_places_=count, noise_non_finite_=count, noise_at_=list_of(list_of(coordinate)),
)  # fmt: skip
_of_grids = record(coordinates_=map_of(list_of(coordinate, 1)))
_sampler = by_kind(
    {
        "Grid": _of_grids,
        "Explorer": _of_grids,
        "Points": record(places_=_coordinates, places_hash_=text, points_=count),
        "Adaptive": record(
            tolerance_=number, max_points_=maybe(count), start_=count, max_depth_=count, seed_=maybe(whole),
            outcome_=_outcome,
        ),
    },
    record(
        kind=name, axes_=map_of(_ends), outcome_=maybe(_maps),
        auto_=map_of(
            record(reach=number, rise_=number, found_=number, capped_=boolean, floored_=boolean, points_=count)
        ),
    ),
)  # fmt: skip

_origin = record(
    spec_=maybe(text), checkpoint_=maybe(text), data_root_=maybe(text), view_=maybe(_maps), options_=maybe(_maps)
)
_layers = record(
    batch_norms_=count, batch_statistics_=count, running_statistics_=count, norm_tensors_=count, weights_=count,
    rectifiers_=count,
)  # fmt: skip
_objective = record(
    model_=maybe(text), loss_=maybe(text), metrics_=maybe(_names), metric_words_=map_of(text),
    parameters_=maybe(count), parameters_held_=count,
    moves_=record(
        params_=anything, tensors_=count,
        frozen_=record(tensors_=count, numbers_=count, names_=_texts), also_=_texts,
    ),
    held_=_texts, layers_=maybe(_layers), buffers_=maybe(count), loss_parameters_held_=maybe(count),
    samples_=maybe(count), population_=maybe(count), subset_seed_=maybe(whole), batches_=maybe(count),
    cut_samples_=maybe(count), metrics_cut_=maybe(_maps), data_resident_=maybe(boolean), bn_=maybe(text),
    seed_=maybe(whole), device_=maybe(text), dtype_=maybe(text), origin_=maybe(_origin), weights_=anything,
    data_=anything, fingerprint_=maybe(text), mode_=maybe(text),
)  # fmt: skip

_sampling = record(
    samples=count, effective=number, skewness=number, tail_=number, shape_=number, largest=number, two_valued_=boolean,
    ordered_=number, distinct_=maybe(count), copies_=number, rows_=text, unseen_weight_=number,
    population_=maybe(record(loss=number, skewness_=number, off_=number)),
)  # fmt: skip

_engine = record(
    kind_=name, precision_=text, asked_=maybe(text), plan_=text, plan_fields_=_maps, plan_probes_=count,
    plan_error_=number, plan_metric_error_=number, plan_differing_=map_of(count), plan_compared_=count,
    plan_seconds_=number, plan_compiling_seconds_=number, plan_events_=_texts,
)  # fmt: skip

_interpolation = record(
    method_=text, points_=count, holes_=count, dims_=_names, measured_=_coordinates,
    values_=map_of(packed_or(list_of(number))), left_out_error_=number, left_out_error_p99_=number,
)  # fmt: skip

_outcome_of_a_run: dict[str, Check] = {
    "plan_hash_": text, "sampler_": _sampler, "engine_": _engine, "center_": map_of(number), "sampling_": _sampling,
    "control_variate_": record(
        points=count, outside=count, residual_error=number, relative_=boolean, largest=number, correction_=number
    ),
    "interpolation_": _interpolation, "interrupted_": boolean, "finished_": boolean, "failures_": _texts,
    "seconds_": number, "points_per_second_": number, "foreign_buffers_": _texts, "checkpoints_": map_of(text),
    "still_": maybe(record(entries=count, of=maybe(map_of(list_of(count, 2, 2))))),
}  # fmt: skip

_of_seeds = record(seeds=list_of(count, 1), charts=list_of(_chart, 1), each=list_of(record(**_outcome_of_a_run), 1))


def _ensemble(value: Any, where: str) -> None:
    """Seeds, each once, with a chart and an outcome each."""
    _of_seeds(value, where)
    seeds = value["seeds"]
    for key in ("charts", "each"):
        if len(value[key]) != len(seeds):
            raise WrongError(f"{where}.{key}", f"one for each of {len(seeds)} seeds", len(value[key]))
    if len(set(seeds)) < len(seeds):
        raise WrongError(f"{where}.seeds", "seeds of which each is there once", seeds)


_curvature = record(
    parameters_=maybe(count), excluded_=maybe(_texts), method_=maybe(text), seed_=maybe(whole),
    tolerance_=maybe(number),
    limit_=maybe(count), precision_=maybe(text),
)  # fmt: skip

_explorer = record(
    words=text, center=maybe(list_of(coordinate)),
    axes_info=record(
        kind_=text, seed_=maybe(whole), cosines_=anything,
        eigenvalues_=maybe(list_of(maybe(record(value=number, error=number)))),
    ),
)  # fmt: skip

SURFACE = record(
    schema=text, schema_version=count, lossnav_version_=text, created_=text, torch_version_=text, torch_threads_=count,
    objective_=_objective, chart=_chart, keep_samples_=boolean, curvature_=_curvature, explorer_=_explorer,
    ensemble_=_ensemble, **_outcome_of_a_run,
)  # fmt: skip

TRAJECTORY = record(
    schema=text, schema_version=count, lossnav_version_=text, chart_=_chart, objective_=_objective, failures_=_texts,
    buffers_=text,
)  # fmt: skip

_estimate = record(value=number, error=number, probes_=count, products_=count, method_=text, known_=count)
SPECTRUM = record(
    schema=text, schema_version=count, lossnav_version_=text, torch_version_=text, created_=text,
    objective_=_objective, point_=maybe(text), loss_=number, loss_se_=number, gradient_norm_=number, operator=text,
    parameters=count, excluded_=_texts, seed_=maybe(whole), tolerance_=maybe(number), limit_=maybe(count),
    precision_=maybe(text),
    converged_=maybe(boolean), products_=count, passes_=number, seconds_=number, interrupted_=boolean,
    trace_=maybe(_estimate),
    density_=maybe(
        record(
            method_=text, probes=count, steps_=count, known_=count, width=number,
            mean_=record(value=number, error=number),
        )
    ),
)  # fmt: skip

REPORT = record(
    schema=text, schema_version=count, objective_=_objective, chart_=_chart, seed_=maybe(whole), probes_=count,
    limit_=count,
    seconds_=number, passes_=number, center_=maybe(_maps), step_=maybe(_maps), rounding_=maybe(_maps),
    rescaling_=maybe(_maps), traces_=maybe(_maps), random_curvature_=maybe(_maps), differences_=maybe(list_of(_maps)),
)  # fmt: skip


# ---------------------------------------------------------------------- documents

_TYPES = {  # of an array, and bytes of a value
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float16": 2, "float32": 4, "float64": 8, "string": 64,
}  # fmt: skip
_CODECS = {"bytes", "zstd", "crc32c", "sharding_indexed", "vlen-utf8"}


def _codecs(value: Any, where: str) -> None:
    """Those that we write: others would have to be trusted with what they allocate."""
    list_of(record(name=text, configuration_=_maps), 1, 8)(value, where)
    for codec in value:
        if codec["name"] not in _CODECS:
            raise WrongError(where, f"made of {', '.join(sorted(_CODECS))}", codec["name"])
        inner = codec.get("configuration", {})
        for key in ("codecs", "index_codecs"):
            if key in inner:
                _codecs(inner[key], f"{where}.{key}")
        if "chunk_shape" in inner:
            _chunk(inner["chunk_shape"], f"{where}.chunk_shape")


def _chunk(value: Any, where: str) -> None:
    list_of(count, 0, MOST_DIMS)(value, where)
    if any(size < 1 for size in value) or math.prod(value) > MOST_VALUES:
        raise WrongError(where, f"sizes of 1 or more, of {MOST_VALUES:,} values in all", value)


def _keys(value: Any, where: str) -> None:
    """Chunks are called as Zarr calls them: c/0/0."""
    record(name=text)(value, where)
    if value["name"] != "default" or value.get("configuration", {"separator": "/"}) != {"separator": "/"}:
        raise WrongError(where, "Zarr's default", value)


ARRAY = record(
    zarr_format=count, node_type=text, shape=list_of(count, 0, MOST_DIMS), data_type=text,
    chunk_grid=record(name=text, configuration=record(chunk_shape=_chunk)), codecs=_codecs,
    chunk_key_encoding_=_keys, fill_value=anything, attributes_=_maps,
    dimension_names_=maybe(list_of(maybe(name), 0, MOST_DIMS)),
)  # fmt: skip


def check_array(said: Mapping[str, Any], where: str, most: int = 2**16) -> int:
    """Check the document of an array, of so many chunks at most, and return how many bytes it declares.

    Raises
    ------
    WrongError
    """
    ARRAY(said, where)
    if said["data_type"] not in _TYPES:
        raise WrongError(f"{where}.data_type", f"one of {', '.join(_TYPES)}", said["data_type"])
    dims = len(said["shape"])
    for key in ("dimension_names", "chunk_grid"):
        part = said["chunk_grid"]["configuration"]["chunk_shape"] if key == "chunk_grid" else said.get(key)
        if part is not None and len(part) != dims:
            raise WrongError(f"{where}.{key}", f"of {dims} dims", part)
    chunks = list(_chunk_shapes(said["chunk_grid"]["configuration"], said["codecs"]))
    for chunk in chunks:
        if len(chunk) != dims:
            raise WrongError(f"{where}.chunk_shape", f"of {dims} dims", chunk)
        if math.prod(-(-size // part) for size, part in zip(said["shape"], chunk, strict=True)) > most:
            raise WrongError(f"{where}.shape", f"one of up to {most:,} chunks {tuple(chunk)}", said["shape"])
    return int(math.prod(said["shape"])) * _TYPES[said["data_type"]]


def _chunk_shapes(grid: Mapping[str, Any], codecs: Any) -> Iterator[list[int]]:
    """Of files, and of the parts that shards are made of."""
    yield grid["chunk_shape"]
    for codec in codecs:
        inner = codec.get("configuration", {})
        if "chunk_shape" in inner:
            yield from _chunk_shapes(inner, inner.get("codecs", ()))
