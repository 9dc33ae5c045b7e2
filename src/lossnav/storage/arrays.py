"""Arrays in a store: chunks, shards and checksums. Reading returns intact chunks and lists damaged ones.

Every chunk has a checksum (CRC-32C). Every metadata document of an array or a group has a digest among its attributes.
A damaged chunk, or one that was written and is missing, is listed, and the rest is read. Older stores without checksums
are read without this check. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.lazy_import import lazily
from lossnav.storage.keys import DIGEST, DOCUMENT, WRITTEN, Keys, digest_of, document, keys_of, require_short

if TYPE_CHECKING:
    import zarr
    import zarr.codecs
else:
    zarr = lazily("zarr")

TILE = 64  # points along each side of a chunk
LONG = 4096  # of an array with one dim
_SHARD = 2**22  # values of a file, at most


@cache
def codecs() -> dict[str, Any]:
    """How chunks are written, as `zarr.create_array` takes it: compressed, with a checksum."""
    return {
        "serializer": zarr.codecs.BytesCodec(),
        "compressors": (zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()),
    }


def layout(shape: Sequence[int]) -> dict[str, Any]:
    """Chunks of an array and the shards (files) that hold them, as arguments of `zarr.create_array`.

    Examples
    --------
    >>> layout((317, 317))
    {'chunks': (64, 64), 'shards': (320, 320)}
    >>> layout((51, 51))
    {'chunks': (51, 51)}
    """
    tile = LONG if len(shape) == 1 else TILE
    chunks = tuple(max(1, min(size, tile)) for size in shape)
    counts = [max(1, math.ceil(size / chunk)) for size, chunk in zip(shape, chunks, strict=True)]
    if math.prod(counts) == 1:
        return {"chunks": chunks}
    for i in range(len(counts)):
        rest = math.prod(chunks) * math.prod(counts[:i] + counts[i + 1 :])
        counts[i] = max(1, min(counts[i], _SHARD // rest))
    return {"chunks": chunks, "shards": tuple(count * chunk for count, chunk in zip(counts, chunks, strict=True))}


def write(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dims: Sequence[str],
    attributes: Mapping[str, Any],
    anew: bool = False,
) -> None:
    """Write a complete array, in place of the previous one.

    If an array of the same shape and type exists, its files are replaced one by one, each atomically, unless it is to
    be created again because it is damaged.
    """
    there = None if anew else group.get(name)
    if not isinstance(there, zarr.Array) or not is_like(there, values):
        there = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            fill_value=np.nan if values.dtype.kind == "f" else 0,
            dimension_names=list(dims),
            attributes=dict(attributes),
            overwrite=True,
            config={"write_empty_chunks": True},
            **layout(values.shape),
            **codecs(),
        )
    else:
        there = there.with_config({"write_empty_chunks": True})
    if values.size:
        there[...] = values
    seal(there, {**attributes, WRITTEN: True})


def is_like(array: zarr.Array[Any], values: NDArray[Any]) -> bool:
    """Whether values can be written into an existing array: it has their shape and checksums."""
    wanted = layout(values.shape)
    return (
        array.shape == values.shape
        and array.dtype == values.dtype
        and array.chunks == wanted["chunks"]
        and array.shards == wanted.get("shards")
        and any(isinstance(codec, zarr.codecs.Crc32cCodec) for codec in array.compressors)
    )


# ---------------------------------------------------------------------- documents


def _said_of(node: zarr.Array[Any] | zarr.Group) -> dict[str, Any]:
    """What the document of an array or a group says."""
    from zarr.core.buffer import default_buffer_prototype

    said: dict[str, Any] = json.loads(node.metadata.to_buffer_dict(default_buffer_prototype())[DOCUMENT].to_bytes())
    return said


def resized(array: zarr.Array[Any], shape: Sequence[int]) -> zarr.Array[Any]:
    """Resize an array: its document and the digest in it change atomically; no chunk is removed."""
    said = _said_of(array)
    said["shape"] = list(shape)
    said["attributes"][DIGEST] = digest_of(said)
    keys_of(array.store_path, writing=True).write(DOCUMENT, json.dumps(said, indent=2).encode())
    return zarr.open_array(array.store_path, mode="r+")


def seal(node: zarr.Array[Any] | zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Write the attributes of an array or a group, with a digest of its whole document."""
    said = _said_of(node)
    said["attributes"] = json.loads(json.dumps({key: value for key, value in attributes.items() if key != DIGEST}))
    if dict(node.attrs) != (new := said["attributes"] | {DIGEST: digest_of(said)}):
        require_short(said)
        node.attrs.put(new)


def unsealed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without those of the file format."""
    return {key: value for key, value in attributes.items() if key not in (DIGEST, WRITTEN)}


# ---------------------------------------------------------------------- reading


def read(array: zarr.Array[Any]) -> tuple[NDArray[Any], list[tuple[slice, ...]]]:
    """Read the values of an array, and list the chunks that cannot be read; values there are undefined.

    The time depends on the number of files, not of chunks.
    """
    there = present(array)
    values = np.full(array.shape, array.fill_value, array.dtype)
    damaged: list[tuple[slice, ...]] = []
    whole = tuple(slice(0, n) for n in array.shape)
    for part in [whole] if len(there) == math.prod(_counts(array.shape, array.shards or array.chunks)) else there:
        _fetch(array, values, part, damaged)
    return values, missing(array, there) + damaged


def _fetch(
    array: zarr.Array[Any], values: NDArray[Any], part: tuple[slice, ...], damaged: list[tuple[slice, ...]]
) -> None:
    """Read a part; if that fails, read each of its halves, down to the damaged chunk."""
    try:
        values[part] = array[part]
    except Exception:  # of whatever a codec finds
        counts = [-(-(each.stop - each.start) // size) for each, size in zip(part, array.chunks, strict=True)]
        if math.prod(counts) <= 1:
            damaged.append(part)
            return
        i = int(np.argmax(counts))
        middle = part[i].start + counts[i] // 2 * array.chunks[i]
        for half in (slice(part[i].start, middle), slice(middle, part[i].stop)):
            _fetch(array, values, (*part[:i], half, *part[i + 1 :]), damaged)


def _counts(shape: Sequence[int], size: Sequence[int]) -> list[int]:
    return [-(-n // s) for n, s in zip(shape, size, strict=True)]


def missing(array: zarr.Array[Any], there: Sequence[tuple[slice, ...]]) -> list[tuple[slice, ...]]:
    """Parts of an array that were written and are missing."""
    if not array.attrs.get(WRITTEN):
        return []
    found = {tuple(each.start for each in part) for part in there}
    parts = tiles(array.shape, array.shards or array.chunks)
    return [part for part in parts if tuple(each.start for each in part) not in found]


def present(array: zarr.Array[Any]) -> list[tuple[slice, ...]]:
    """The parts of an array whose files exist."""
    from zarr.core.sync import sync

    size, under = array.shards or array.chunks, f"{array.path}/c".lstrip("/")

    async def listed() -> list[str]:
        if not array.ndim:
            return [under] if await array.store.exists(under) else []
        return [key async for key in array.store.list_prefix(f"{under}/")]

    found = []
    for key in sync(listed()):
        at = key.removeprefix(under).strip("/").split("/") if array.ndim else []
        if len(at) == array.ndim and all(part.isascii() and part.isdigit() and len(part) < 19 for part in at):
            starts = [int(part) * s for part, s in zip(at, size, strict=True)]
            if all(start < n for start, n in zip(starts, array.shape, strict=True)):
                ends = [min(start + s, n) for start, s, n in zip(starts, size, array.shape, strict=True)]
                found.append(tuple(map(slice, starts, ends)))
    return found


def tiles(shape: Sequence[int], size: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """The parts of an array, chunk by chunk."""
    ranges = [[slice(a, min(a + s, n)) for a in range(0, n, s)] for n, s in zip(shape, size, strict=True)]
    return product(*ranges)


def named(name: str, tile: Iterable[slice]) -> str:
    """Name of a part of an array.

    Examples
    --------
    >>> named("loss", (slice(0, 64), slice(64, 101)))
    'loss[0:64, 64:101]'
    """
    return f"{name}[{', '.join(f'{part.start}:{part.stop}' for part in tile)}]"


def array_documents(keys: Keys, under: str = "") -> dict[str, dict[str, Any]]:
    """Metadata documents of the arrays of a group, by name; empty if they cannot be read."""
    found = {}
    for name in sorted(keys.names(under)):
        at = f"{under}/{name}".lstrip("/")
        said = document(keys, at)
        if said is None and keys.read(f"{at}/{DOCUMENT}") is not None:
            found[name] = dict[str, Any]()
        elif said is not None and said.get("node_type") != "group":
            found[name] = said
    return found
