"""Export as one HTML file with the page and the data; it opens without a server or a network.

The files of the page are embedded unchanged: styles instead of the link to them, and modules by an import map of
``data:`` URLs, since browsers do not load modules from a local file. The data are the same messages and frames that a
socket would send, so that the page reads both in the same way. No torch.
"""

from __future__ import annotations

import base64
import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from lossnav._utils.paths import Location, require_writable, write_whole
from lossnav.errors import OptionError
from lossnav.explorer.server import wire
from lossnav.explorer.server.page_files import PAGE, files
from lossnav.explorer.stored.copy_as_code import code_of
from lossnav.explorer.stored.place import Place
from lossnav.explorer.stored.session import Session, open_session

_POLICY = "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:"
_LONGEST_VIEW = 4096  # characters

_STYLE = re.compile(r'<link rel="stylesheet" href="\./static/([\w.-]+)">')
_ENTRY = re.compile(r'<script type="module" src="\./static/([\w.-]+)"></script>')
_IMPORT = re.compile(r'(\bfrom\s*|\bimport\s*\(?\s*)"(\.\.?/[\w./-]+\.js)"')


def write_html(
    store: Location, path: str | os.PathLike[str], *, view: str | None = None, overwrite: bool = False
) -> Path:
    """Write a stored surface, with the places beside it, as one HTML file.

    Parameters
    ----------
    store : path, fsspec URL or zarr store
    path : path
    view : str, optional
        The part of the page's address after ``#``.
    overwrite : bool

    Raises
    ------
    OutputExistsError, OutputNotWritableError, StoreError
        If the file cannot be written.
    NotASurfaceError
        If the store is not a surface.
    """
    target = require_writable(path, overwrite)
    write_whole(target, export_html(open_session(store), view=view))
    return target


def export_html(session: Session, place: int = 0, view: str | None = None) -> str:
    """Return the page with all places as text.

    Parameters
    ----------
    session : Session
    place : int
        The place that is shown first.
    view : str, optional
        The part of the page's address after ``#``.

    Raises
    ------
    OptionError
        If there is no such place, or the view is too long.
    """
    session.place(place)
    if view is not None and len(view) > _LONGEST_VIEW:
        raise OptionError(
            f"The view must have at most {_LONGEST_VIEW:,} characters, got {len(view):,}. Copy it from the "
            "page's address."
        )
    said: dict[str, Any] = {"places": [_place(session, each) for each in session.places], "place": place}
    if view is not None:
        said["view"] = view
    data = f'<script type="application/json" id="lossnav-data">{_as_data(said)}</script>'
    page = (PAGE / "index.html").read_text("utf-8")
    known = files()
    page = _STYLE.sub(lambda found: f"<style>{_read(known, found[1])}</style>", page)
    page = _ENTRY.sub(
        lambda found: f'{data}\n{_modules(known)}\n<script type="module">import "{_named(found[1])}";</script>', page
    )
    return page.replace(
        '<meta charset="utf-8">',
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        1,
    )


def _place(session: Session, place: Place) -> dict[str, Any]:
    """Return what a socket would send of a place."""
    message = session.message(place.number) | {"live": False, "store": None}
    frames = [base64.b64encode(frame).decode() for frame in place.frames()]
    code = code_of(session, place.number, {}, shared=True)
    return {"session": json.loads(wire.text(message)), "frames": frames, "code": code}


def _modules(known: dict[str, Path]) -> str:
    """Return the import map, which gives each module a name that does not depend on its folder."""
    urls = {
        _named(name): "data:text/javascript;base64," + base64.b64encode(_renamed(known, name).encode()).decode()
        for name in sorted(known)
        if name.endswith(".js")
    }
    return f'<script type="importmap">{_as_data({"imports": urls})}</script>'


def _renamed(known: dict[str, Path], module: str) -> str:
    """Return the text of a module with relative imports replaced by names of the import map."""
    folder = posixpath.dirname(module)

    def rename(found: re.Match[str]) -> str:
        return f'{found[1]}"{_named(posixpath.normpath(posixpath.join(folder, found[2])))}"'

    return _IMPORT.sub(rename, _read(known, module))


def _named(module: str) -> str:
    return f"lossnav/{module}"


def _read(known: dict[str, Path], name: str) -> str:
    return known[name].read_text("utf-8")


def _as_data(value: Any) -> str:
    r"""Return JSON that is safe inside a script element: it has no ``<``.

    >>> _as_data({"title": "</script>"})
    '{"title": "\\u003c/script>"}'
    """
    return json.dumps(value).replace("<", "\\u003c")
