"""The files of the live page: read once, served as they are. There are no others, and nothing is looked up by path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent / "static"

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

# The page runs its own scripts and styles and talks to this server only; nobody may put it into a frame.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


def add_pages(app: web.Application) -> None:
    """index.html at /, all others below /static/."""
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            name = path.relative_to(FOLDER).as_posix()
            app.router.add_get("/" if name == "index.html" else f"/static/{name}", _handler(path))


def _handler(path: Path) -> Callable[[web.Request], Awaitable[web.Response]]:
    content = path.read_bytes()
    headers = {"Content-Type": f"{_TYPES[path.suffix]}; charset=utf-8", "Content-Security-Policy": POLICY}

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=content, headers=headers)

    return handler
