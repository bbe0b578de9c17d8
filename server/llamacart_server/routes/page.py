"""The playground: a page at `/` and the files that it loads, which are part of the package.

A file is read once and kept with its compressed form. The page holds no secrets, so it needs no
key; what it asks the API for does. Its policy lets it run its own files alone and reach its own
server alone, and forbids a text to become HTML: what a model says stays a text.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent.parent / "page"
START = "index.html"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Attributes:
        content: Its bytes.
        compressed: The same by gzip.
        kind: Its media type.
        etag: Tells versions apart.
    """

    content: bytes
    compressed: bytes
    kind: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> PageFile:
        """The file at `path`, whose name says what it is."""
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        return cls(content, gzip.compress(content, mtime=0), _KINDS[path.suffix], etag)

    def response(self, headers: Mapping[str, str]) -> Response:
        """The answer to a request with these headers."""
        told = {
            "ETag": self.etag,
            "Cache-Control": "no-cache",
            "Vary": "Accept-Encoding",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        if headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=told)
        content = self.content
        if "gzip" in headers.get("accept-encoding", ""):
            told["Content-Encoding"] = "gzip"
            content = self.compressed
        return Response(content, media_type=self.kind, headers=told)


def paths() -> dict[str, Path]:
    """The file behind each path of the page."""
    files = {f"/page/{path.name}": path for path in FOLDER.iterdir() if path.suffix in _KINDS}
    return {"/": files.pop(f"/page/{START}"), **files}


def router() -> APIRouter:
    """A route for each file; none is a part of the API's description."""
    routes = APIRouter()
    for path, file in paths().items():
        _add(routes, path, PageFile.read(file))
    return routes


def _add(routes: APIRouter, path: str, file: PageFile) -> None:
    @routes.get(path, include_in_schema=False)
    async def get_file(request: Request) -> Response:
        return file.response(request.headers)
