"""Opens untrusted stores: documents are validated, sizes bounded, and intact parts of arrays read. No torch."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.lazy_import import lazily
from lossnav._utils.paths import LEASE, Location, is_local, name_of
from lossnav.errors import NotASurfaceError, StoreError
from lossnav.storage import arrays, journal
from lossnav.storage import samples as kept
from lossnav.storage.keys import DOCUMENT, WRITTEN, Keys, as_said, document, is_whole, keys_of
from lossnav.storage.schema import LARGEST, MOST_VALUES, SPARSE, Check, WrongError, check_array

if TYPE_CHECKING:
    import xarray as xr
    import zarr
else:
    xr = lazily("xarray")
    zarr = lazily("zarr")

_MOST_FILES = 100_000  # that are looked at before a store is opened
_MOST_CHUNKS = 2**16  # of an array


class Documents(NamedTuple):
    """The metadata of a group and its arrays.

    Attributes
    ----------
    attributes : dict
        Of the group, without what belongs to the file.
    arrays : dict of str to dict
    sealed : bool
        Whether all of them have digests; in an older store some have none.
    damaged : list of str
        Documents that do not match their digest.
    """

    attributes: dict[str, Any]
    arrays: dict[str, dict[str, Any]]
    sealed: bool
    damaged: list[str]


def documents_of(place: Location, under: str = "") -> Documents | None:
    """Read the documents of a group and its arrays; None if there is no group.

    Raises
    ------
    StoreError
        If something in it is not a readable file.
    """
    keys = keys_of(place)
    said = document(keys, under)
    if said is None or said.get("node_type") != "group":
        return None
    if is_local(place):
        _require_files(Path(place).expanduser() / under)
    found = arrays.array_documents(keys, under)
    whole = {name: is_whole(part) if part else False for name, part in {"": said, **found}.items()}
    attributes = said.get("attributes", {})
    if not isinstance(attributes, dict):
        raise StoreError(f"Its attributes are not a mapping. {_ANEW}")
    damaged = [name or "the attributes" for name, sound in whole.items() if sound is False]
    written = attributes.get(WRITTEN)
    damaged += [str(name) for name in (written if isinstance(written, list) else ()) if str(name) not in found]
    return Documents(as_said(arrays.unsealed(attributes)), found, None not in whole.values(), damaged)


def require_sound(documents: Documents, model: Check, place: Location, under: str = "") -> None:
    """Raise a StoreError if a group is damaged, violates its schema, or declares more data than it stores."""
    if documents.damaged:
        raise StoreError(
            f"{', '.join(documents.damaged)}: missing, or changed since it was written. {under or 'The store'} was "
            f"damaged. {_ANEW}"
        )
    require_model(documents.attributes, model)
    try:
        declared = {name: check_array(said, name, _MOST_CHUNKS) for name, said in documents.arrays.items()}
    except WrongError as wrong:
        raise StoreError(f"It is not as its schema says: {wrong}. {_ANEW}") from None
    total = sum(size for name, size in declared.items() if name not in kept.VARIABLES)
    if total > 8 * MOST_VALUES:
        _require_there(place, under, total)


def require_model(attributes: Mapping[str, Any], model: Check) -> None:
    """Raise a StoreError if attributes violate the schema."""
    try:
        model(attributes, "")
    except WrongError as wrong:
        raise StoreError(f"It is not as its schema says: {wrong}. {_ANEW}") from None
    except RecursionError:
        raise StoreError(f"Its attributes are nested too deeply. {_ANEW}") from None


def _require_files(folder: Path) -> None:
    """Raise where something in a folder is no file to read: a device, a pipe, a link to nowhere."""
    for i, path in enumerate(_below(folder)):
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if not os.path.lexists(path):
                continue  # of whoever writes there: a scratch file, which has its name by now
            raise StoreError(
                f"{path.relative_to(folder)} cannot be read: {error.strerror or error}. Check where it leads."
            ) from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise StoreError(f"{path.relative_to(folder)} is neither a file nor a folder. {_ANEW}")
        if i == _MOST_FILES:
            return


def _below(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        yield from (Path(at) / name for name in (*folders, *files))


def _require_there(place: Location, under: str, declared: int) -> None:
    """Raise where arrays declare far more than what is stored could be."""
    if not is_local(place):
        if declared > 64 * MOST_VALUES:
            raise StoreError(
                f"Its arrays declare {declared / 1e9:.3g} GB. Open such a large store with xarray.open_zarr."
            )
        return
    there = 0
    for path in _below(Path(place).expanduser() / under):
        with suppress(OSError):
            there += path.stat().st_size if path.is_file() else 0
    if declared > SPARSE * there:
        raise StoreError(
            f"Its arrays declare {declared / 1e9:.3g} GB, but it stores {there / 1e6:.3g} MB: it was damaged, "
            f"or forged to fill your memory. {_ANEW}"
        )


_ANEW = "Evaluate again, to another store or with --overwrite."


# ---------------------------------------------------------------------- arrays


class StoredArrays(NamedTuple):
    """Contents of the arrays of a store.

    Attributes
    ----------
    variables : dict of str to (dims, values, attributes)
    coordinates : set of str
        Which of them are coordinates.
    damaged : dict of str to list of parts
        Parts that could not be read, by array name.
    """

    variables: dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]]
    coordinates: set[str]
    damaged: dict[str, list[tuple[slice, ...]]]


def group_of(place: Location, under: str = "") -> zarr.Group:
    """A group of a store, to read.

    Raises
    ------
    StoreError
        If its document does not describe a group.
    """
    try:
        return zarr.open_group(place, path=under, mode="r")
    except Exception as error:  # of whatever Zarr found there
        raise StoreError(f"{under or 'It'} does not open as Zarr ({type(error).__name__}: {error}). {_ANEW}") from None


def array_of(root: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group.

    Raises
    ------
    StoreError
        If its document does not describe an array.
    """
    try:
        array = root[name]
        assert isinstance(array, zarr.Array)
    except Exception as error:
        raise StoreError(
            f"{name} is not an array that Zarr can open ({type(error).__name__}: {error}). {_ANEW}"
        ) from None
    return array


def read_arrays(root: zarr.Group, documents: Documents, without: Sequence[str] = ()) -> StoredArrays:
    """Read the intact parts of the arrays of a group."""
    found = StoredArrays({}, set(), {})
    for name, said in documents.arrays.items():
        if name in without:
            continue
        array = array_of(root, name)
        dims = tuple(map(str, said.get("dimension_names") or ()))
        if len(dims) != array.ndim:
            raise StoreError(f"The dims of {name} have no names. {_ANEW}")
        values, damaged = arrays.read(array)
        attributes = arrays.unsealed(said.get("attributes", {}))
        attributes.pop("_FillValue", None)  # as xarray writes it
        beside = attributes.pop("coordinates", "")
        found.coordinates.update(str(beside).split(), {name} if dims == (name,) else ())
        found.variables[name] = dims, values, attributes
        if damaged:
            found.damaged[name] = damaged
    found.coordinates.intersection_update(found.variables)
    return found


def dataset_of(found: StoredArrays, attributes: Mapping[str, Any]) -> xr.Dataset:
    """The arrays of a group as a dataset.

    Raises
    ------
    StoreError
        If their lengths differ.
    """
    data = {name: parts for name, parts in found.variables.items() if name not in found.coordinates}
    coords = {name: found.variables[name] for name in sorted(found.coordinates)}
    try:
        return xr.Dataset(data, coords=coords, attrs=dict(attributes))
    except ValueError as error:
        raise _UnevenError(f"The lengths of its arrays differ: {error}. {_ANEW}") from None


def read_group(place: Location, under: str, model: Check) -> xr.Dataset | None:
    """Read a group of a store into memory, or without a name the store itself; None if there is no such group.

    Raises
    ------
    StoreError
        If it is damaged, or violates its schema.
    """
    documents = documents_of(place, under)
    if documents is None:
        return None
    require_sound(documents, model, place, under)
    found = read_arrays(group_of(place, under), documents)
    if found.damaged:
        name, parts = next(iter(found.damaged.items()))
        raise StoreError(f"{arrays.named(name, parts[0])} is damaged. {_ANEW}")
    return dataset_of(found, documents.attributes)


class _UnevenError(StoreError, ValueError):
    """Arrays of a store have several lengths."""


def require_coordinates(dataset: xr.Dataset, dims: Sequence[str]) -> None:
    """Raise if coordinates are not finite, out of bounds, or not increasing on a grid; seeds have no order."""
    for dim in dims:
        if dim not in dataset.coords:
            raise NotASurfaceError(f"It has no coordinate {dim!r}. {_ANEW}")
        values = dataset[dim].values
        if (
            values.dtype.kind not in "fiu"
            or values.ndim > 1
            or not (np.abs(values.astype(np.float64)) <= LARGEST).all()
        ):
            raise NotASurfaceError(f"Its coordinate {dim!r} has values that are not numbers up to {LARGEST:g}. {_ANEW}")
        if dim != "seed" and dataset[dim].dims == (dim,) and not (np.diff(values) > 0).all():
            raise NotASurfaceError(f"Its coordinate {dim!r} does not increase along its axis. {_ANEW}")


def write_dataset(dataset: xr.Dataset, place: Location, group: str | None = None, mode: Any = "w-") -> None:
    """Write a dataset into a group, with checksums on every chunk and a digest on every document."""
    encoding = {}
    clean = dataset.copy()
    for name, variable in clean.variables.items():
        variable.encoding = {}
        how: dict[str, Any] = {"compressors": arrays.codecs()["compressors"]}
        if name == kept.LOSS:
            how["chunks"] = kept.chunks(variable.shape)
        elif variable.dtype.kind in "fiub":
            how |= {**arrays.layout(variable.shape), "_FillValue": None}
        encoding[str(name)] = how
    options: dict[str, Any] = {"zarr_format": 3, "consolidated": False, "write_empty_chunks": True}
    clean.to_zarr(place, group=group, mode=mode, encoding=encoding, **options)
    root = zarr.open_group(place, path=group or "", mode="r+")
    for name in encoding:
        array = root[name]
        assert isinstance(array, zarr.Array)
        arrays.seal(array, {**array.attrs, **({} if name == kept.LOSS else {WRITTEN: True})})
    arrays.seal(root, {**root.attrs, WRITTEN: sorted(encoding)})


# ---------------------------------------------------------------------- all of it


class Verification(NamedTuple):
    """Result of reading every byte of a store.

    Attributes
    ----------
    checked, unchecked : int
        Numbers of chunks and documents with a checksum, and without (written by an older lossnav).
    damaged : list of str
        Those that do not match their checksum, or are missing.
    """

    checked: int
    unchecked: int
    damaged: list[str]


def verify(place: Location) -> Verification:
    """Read all of a store, including its groups and journal, and list what is damaged.

    Raises
    ------
    NotASurfaceError
        If there is no store.
    """
    keys = keys_of(place)
    if document(keys) is None and DOCUMENT not in keys.names(""):
        raise NotASurfaceError(f"There is no store at {name_of(place)}. Check the path.")
    checked, unchecked, damaged = 0, 0, list[str]()
    try:
        root = zarr.open_group(place, mode="r")
    except Exception as error:
        return Verification(1, 0, [f"{DOCUMENT} ({type(error).__name__})"])
    superseded = journal.supersedes(root)  # arrays that are being replaced count for nothing
    for at in _nodes(keys, ""):
        said = document(keys, at)
        where = f"{at}/{DOCUMENT}".lstrip("/")
        whole = None if said is None else is_whole(said)
        is_lease = at.partition("/")[0] == LEASE
        checked, unchecked = checked + (whole is not None), unchecked + (whole is None and not is_lease)
        if said is None or whole is False:
            damaged.append(where)
            continue
        if said.get("node_type") == "group":
            written = said.get("attributes", {}).get(WRITTEN) if whole else None
            names = keys.names(at)
            if not (superseded and not at):
                damaged += [f"{at}/{name}, which is gone".lstrip("/") for name in written or () if name not in names]
            continue
        try:
            in_journal = at.partition("/")[0] == journal.GROUP
            check_array(said, at, 2**62 if in_journal else _MOST_CHUNKS)
            array = array_of(root, at)
            parts, lost = _stored_parts(array, in_journal)
        except (StoreError, WrongError) as error:
            damaged.append(f"{where} ({error})")
            continue
        damaged += [f"{arrays.named(at, part)}, which is gone" for part in lost]
        sealed = any(codec["name"] == "crc32c" for codec in _codecs_of(said))
        for part in parts:
            checked, unchecked = checked + sealed, unchecked + (not sealed)
            try:
                array[part]
            except Exception:
                damaged.append(arrays.named(at, part))
    return Verification(checked, unchecked, damaged)


def _codecs_of(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    codecs = list(said["codecs"])
    return codecs + [inner for codec in codecs for inner in codec.get("configuration", {}).get("codecs", [])]


def _stored_parts(array: zarr.Array[Any], in_journal: bool) -> tuple[list[tuple[slice, ...]], list[tuple[slice, ...]]]:
    """The chunks of an array that are there, and those that should be."""
    if in_journal:
        rows = array.chunks[0]
        return [(slice(i * rows, (i + 1) * rows), slice(0, array.shape[1])) for i in journal.tiles_of(array)], []
    there = arrays.present(array)
    chunks = [
        tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(part, inner, strict=True))
        for part in there
        for inner in arrays.tiles([each.stop - each.start for each in part], array.chunks)
    ]
    return chunks, arrays.missing(array, there)


def _nodes(keys: Keys, at: str, depth: int = 0) -> Iterator[str]:
    """Every group and array, from the root on."""
    yield at
    if depth < 4:
        for name in sorted(keys.names(at)):
            inner = f"{at}/{name}".lstrip("/")
            if keys.read(f"{inner}/{DOCUMENT}") is not None:
                yield from _nodes(keys, inner, depth + 1)
