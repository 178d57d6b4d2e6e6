"""A finished run of a tiny model, and copies of it that tests may change while they are watched."""

from __future__ import annotations

import shutil
import threading
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
import uvicorn

from sombrero.watch.server import make_app
from tests.commands import Tiny, finished_run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return finished_run(tmp_path_factory.mktemp("watched"))


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.run, tmp_path / "runs" / "mine", ignore=shutil.ignore_patterns("model", "states")))


class Server:
    """The application on a port of its own, in a thread."""

    def __init__(self, run: Path) -> None:
        settings = uvicorn.Config(make_app(run), port=0, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def get(self, path: str, *, host: str | None = None, method: str = "GET") -> HTTPResponse:
        """The answer to exactly this path: nothing tidies it on the way."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{self.port}")
        connection.endheaders()
        return connection.getresponse()

    def events(self) -> HTTPResponse:
        found: HTTPResponse = urllib.request.urlopen(f"{self.address}/events", timeout=60)
        return found

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=30)


@pytest.fixture
def server(run: Path) -> Iterator[Server]:
    found = Server(run)
    yield found
    found.stop()
