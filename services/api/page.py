"""The web page that shows searches, served at `/`: the files of `services/web`, and no others.

They are read once, when the application is built. The page gets its data from the same routes as
every other client, and by its Content-Security-Policy can load nothing from anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_HEADERS = {
    # What models write is shown as text only; were it ever taken for markup, nothing of it would
    # run or be fetched.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # A browser asks each time whether it has changed, as it does with every new release.
    "cache-control": "no-cache",
}
_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    kind: str
    tag: str


def page() -> APIRouter:
    """The page and what it consists of."""
    routes = APIRouter(include_in_schema=False)
    found = _files(files("services") / "web")

    @routes.get("/")
    async def show_page(request: Request) -> Response:
        """The page."""
        return _sent(found["index.html"], request)

    @routes.get("/web/{name:path}")
    async def show_part(name: str, request: Request) -> Response:
        """A part of it."""
        if name not in found:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return _sent(found[name], request)

    return routes


def _files(folder: Traversable, prefix: str = "") -> dict[str, _File]:
    """Every file that a browser may have, by its path in `folder`."""
    found: dict[str, _File] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _files(entry, f"{prefix}{entry.name}/")
        elif (ending := entry.name.rpartition(".")[2]) in _TYPES:
            content = entry.read_bytes()
            tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
            found[prefix + entry.name] = _File(content, _TYPES[ending], tag)
    return found


def _sent(file: _File, request: Request) -> Response:
    headers = {**_HEADERS, "etag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(file.content, media_type=file.kind, headers=headers)
