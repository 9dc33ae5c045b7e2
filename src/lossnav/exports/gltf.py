"""Writes binary glTF 2.0 (Khronos, ISO/IEC 12113, sections 3 and 4.4)."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav._version import __version__
from lossnav.exports.mesh import Mesh

_FLOAT, _UNSIGNED_INT = 5126, 5125
_VERTICES, _INDICES = 34962, 34963  # ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_Z_UP = [-(0.5**0.5), 0.0, 0.0, 0.5**0.5]  # a quarter turn about x: glTF's up is y


def binary(mesh: Mesh) -> bytes:
    """A mesh with normals and colours (.glb); vertices are (alpha, beta, scaled height), rotated upright by the node.

    Colours are linear, as glTF requires. Each variable that fits float32 is an attribute, ``_LOSS`` and so on. The
    extras of the mesh describe the heights and their scaling.
    """
    attributes: dict[str, NDArray[Any]] = {
        "POSITION": mesh.scaled,
        "NORMAL": mesh.normals,
        "COLOR_0": _linear(mesh.colors),
    }
    with np.errstate(over="ignore"):
        for name, values in mesh.variables.items():
            if values.dtype.kind == "f" and np.isfinite(values.astype(np.float32)).all():
                attributes[f"_{name.upper()}"] = values
    blocks = {name: np.ascontiguousarray(values, "<f4") for name, values in attributes.items()}
    blocks["indices"] = np.ascontiguousarray(mesh.faces.reshape(-1), "<u4")
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    offset = 0
    for name, block in blocks.items():  # every number has four bytes, so all are aligned
        of_vertices = name != "indices"
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": block.nbytes})
        views[-1]["target"] = _VERTICES if of_vertices else _INDICES
        accessors.append({"bufferView": len(views) - 1, "count": len(block)})
        accessors[-1]["componentType"] = _FLOAT if of_vertices else _UNSIGNED_INT
        accessors[-1]["type"] = "VEC3" if block.ndim == 2 else "SCALAR"
        if name == "POSITION":
            accessors[-1] |= {"min": block.min(0).tolist(), "max": block.max(0).tolist()}
        offset += block.nbytes
    numbers = {name: i for i, name in enumerate(blocks)}
    primitive = {
        "attributes": {name: numbers[name] for name in attributes},
        "indices": numbers["indices"],
        "material": 0,
    }
    paint = {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0, "roughnessFactor": 0.8}
    document = {
        "asset": {"version": "2.0", "generator": f"lossnav {__version__}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "surface", "rotation": _Z_UP}],
        "meshes": [{"name": "surface", "primitives": [primitive], "extras": mesh.about_scaled}],
        "materials": [{"name": "values", "pbrMetallicRoughness": paint, "doubleSided": True}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    words = json.dumps(document, allow_nan=False).encode()
    words += b" " * (-len(words) % 4)
    data = b"".join(block.tobytes() for block in blocks.values())
    chunks = struct.pack("<II", len(words), _JSON) + words + struct.pack("<II", len(data), _BIN) + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo the sRGB curve (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
