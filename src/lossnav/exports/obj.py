"""Writes Wavefront OBJ, with colours as three more numbers after each vertex, which most readers accept."""

from __future__ import annotations

import io
import json

import numpy as np

from lossnav._version import __version__
from lossnav.exports.mesh import Mesh


def text(mesh: Mesh) -> bytes:
    """A mesh with normals and colours (.obj); y is up, so vertices are (alpha, scaled height, -beta).

    Comments at the top describe the heights and their scaling.
    """
    out = io.StringIO()
    said = mesh.about_scaled
    out.write(f"# lossnav {__version__}: x = {said['axes'][0]}, z = -{said['axes'][1]}\n")
    out.write(f"# y = ({said['height']} - {said['z_zero']!r}) * {said['z_factor']!r}\n")
    out.write(f"# {json.dumps(said)}\n")
    np.savetxt(out, np.hstack([_upright(mesh.scaled), mesh.colors]), "v %.9g %.9g %.9g %.4f %.4f %.4f")
    np.savetxt(out, _upright(mesh.normals), "vn %.6f %.6f %.6f")
    np.savetxt(out, np.repeat(mesh.faces + 1, 2, axis=1), "f %d//%d %d//%d %d//%d")
    return out.getvalue().encode()


def _upright(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, [0, 2, 1]] * [1, 1, -1]
