"""The files of the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


PAGE = Path(__file__).parents[1] / "page"


def files() -> dict[str, Path]:
    """What is handed out, by name: the page's own files. Nothing else has a name."""
    return {path.name: path for path in PAGE.iterdir() if path.is_file() and not path.name.startswith(".")}
