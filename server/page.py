"""The built-in page: `/` for a browser, and its files under `/page/`, as a layer of plain ASGI.

It needs no key, since it holds nothing of the server; what it asks the API does. Whoever does not
ask for HTML at `/` gets what the application answers there. Knows nothing of the page's content.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).parent / "static"
PREFIX = "/page/"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No HTML is ever made of text either: without a policy for it, trusted types refuse innerHTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # may be kept, but is asked for again, by its ETag
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file of the page. `etag` is a strong one, of its content."""

    content: bytes
    media_type: str
    etag: str


def read_files(folder: Path = FOLDER) -> dict[str, File]:
    """The page's files by name: those of the known types, all held in memory."""
    files: dict[str, File] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            files[path.name] = File(content, TYPES[path.suffix], etag)
    return files


class Page:
    """Answers GET and HEAD of the page's files, and passes everything else on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._files = read_files()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._app
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            headers = Headers(scope=scope)
            file = self._files.get(file_name(scope["path"], headers.get("accept", "")) or "")
            if file is not None:
                answer = response(file, headers.get("if-none-match", ""))
        await answer(scope, receive, send)


def file_name(path: str, accept: str) -> str | None:
    """The name of the file that `path` may mean; a name is never a path. `/` is the page only for
    those who accept HTML by name, as browsers do and API clients do not."""
    if path == "/":
        kinds = (kind.partition(";")[0].strip().lower() for kind in accept.split(","))
        return INDEX if "text/html" in kinds else None
    return path.removeprefix(PREFIX) if path.startswith(PREFIX) else None


def response(file: File, if_none_match: str) -> Response:
    """The file, or a 304 where the browser has it."""
    headers = {**HEADERS, "ETag": file.etag, "Vary": "Accept"}
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
