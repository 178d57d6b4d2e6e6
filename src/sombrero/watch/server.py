"""The server of the live page: a page, its script and style, a stream of events, and the run's report."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sombrero.errors import UsageError
from sombrero.run_folder import read_manifest
from sombrero.watch.snapshot import Snapshots, report_file

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]
"""What a browser may call this server. A foreign name that leads here (DNS rebinding) is refused."""
PORT = 8741
LOOK_EVERY = 0.5
"""Seconds between looks at the folder."""
ALIVE_EVERY = 15.0
"""Seconds of silence after which a comment keeps the connection open."""
STATIC = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'"
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
)


def watch(path: Path, *, port: int = PORT, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve the live page of the run in ``path`` on 127.0.0.1 until interrupted; port 0 takes any free one.

    ``on_ready`` is given the page's address. Raises RunError when there is no run, UsageError when the extra is not
    installed or the port is taken.
    """
    read_manifest(path)
    try:
        import uvicorn
    except ImportError as error:
        raise _missing(error) from error
    app = make_app(path)
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise UsageError(f"port {port} of {HOST} cannot be used: {error.strerror}; give another --port") from error
    with closing(listener):
        if on_ready is not None:
            on_ready(f"http://{HOST}:{listener.getsockname()[1]}/")
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
        uvicorn.Server(settings).run(sockets=[listener])


def make_app(path: Path) -> Starlette:
    """The application. Every route is read only; none takes a path from the request."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise _missing(error) from error
    pages = files("sombrero.watch")

    def static(request: Request) -> Response:
        name, kind = STATIC[request.url.path]
        headers = HEADERS | {"Content-Security-Policy": POLICY + "; frame-ancestors 'none'"}
        return Response(pages.joinpath(name).read_bytes(), media_type=kind, headers=headers)

    def report(_request: Request) -> Response:
        file = report_file(path)
        if file is None:
            return PlainTextResponse("there is no report yet", status_code=404, headers=HEADERS)
        return FileResponse(file, media_type="text/html", headers=HEADERS | {"Content-Security-Policy": REPORT_POLICY})

    async def follow(request: Request) -> Response:
        return StreamingResponse(events(path, request), media_type="text/event-stream", headers=HEADERS)

    routes = [Route(address, static) for address in STATIC]
    routes += [Route("/report.html", report), Route("/events", follow)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=NAMES)])


async def events(path: Path, request: Request) -> AsyncIterator[bytes]:
    """Server-sent events: a snapshot at once, and another one, with the new trials only, whenever a file changed."""
    snapshots, known, sent, silent = Snapshots(path), None, 0, 0.0
    while not await request.is_disconnected():
        signature = await asyncio.to_thread(snapshots.signature)
        if signature != known:
            found = await asyncio.to_thread(snapshots.take, sent)
            known, silent = signature, 0.0
            sent = found["from"] + len(found["trials"]) if "trials" in found else 0
            yield f"data: {json.dumps(found)}\n\n".encode()
        elif silent >= ALIVE_EVERY:
            silent = 0.0
            yield b": alive\n\n"
        await asyncio.sleep(LOOK_EVERY)
        silent += LOOK_EVERY


def _missing(error: ImportError) -> UsageError:
    return UsageError(f"the live page needs {error.name}, which is not installed; pip install 'sombrero[watch]'")
