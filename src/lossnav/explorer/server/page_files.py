"""The files of the page."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "page"


def files() -> dict[str, Path]:
    """Return the files that are served, by their path in the folder of the page, such as ``state/scene.js``.

    A request must name one of these keys. The path of a request is never joined to a folder.
    """
    found = ((path.relative_to(PAGE), path) for path in PAGE.rglob("*") if path.is_file())
    return {name.as_posix(): path for name, path in found if not any(part.startswith(".") for part in name.parts)}
