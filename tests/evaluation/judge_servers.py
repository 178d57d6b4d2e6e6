"""Endpoints to judge with: a small HTTP server that answers as a test says, and `transformers serve`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STARTS_WITHIN = 240
"""Seconds that importing the server's libraries may take on a busy machine."""


@dataclass
class Reply:
    """What the server does with one question: a status, a body (the words of the model, or raw bytes), a delay."""

    content: str | None = "answer"
    status: int = 200
    raw: bytes | None = None
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": f"the key {self.content} and your text were refused"}}).encode()
        message = {"role": "assistant", "content": self.content}
        return json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()


@dataclass
class Judge:
    """A running server: where it is, and what it was asked."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0

    def material(self, place: int) -> dict[str, str]:
        """Request and response of a question."""
        found: dict[str, str] = json.loads(self.asked[place]["messages"][0]["content"].rsplit("\n\n", 1)[1])
        return found


@contextmanager
def judge_server(answer: Callable[[int, dict[str, Any]], Reply]) -> Iterator[Judge]:
    """Serve on loopback; ``answer`` is given the number of the question and its body."""
    guard, open_now = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with guard:
                number = len(found.asked)
                found.asked.append(body)
                found.headers.append({k.lower(): v for k, v in self.headers.items()})
                found.paths.append(self.path)
                found.times.append(time.monotonic())
                open_now[0] += 1
                found.most_at_once = max(found.most_at_once, open_now[0])
            reply = answer(number, body)
            time.sleep(reply.delay)
            data = reply.body()
            with guard:
                open_now[0] -= 1
            try:
                self.send_response(reply.status)
                for name, value in {
                    "content-type": reply.kind,
                    "content-length": str(len(data)),
                    **reply.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):  # the client did not wait
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Judge(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[str]:
    """`transformers serve` of a model folder on loopback, in a process of its own, offline; yields the base URL."""
    port = free_port()
    code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as stream:
        process = subprocess.Popen([*command, str(model)], stdout=stream, stderr=stream, env=environment)
    try:
        _await_health(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{log.read_text()[-3000:]}"
        try:
            with opener.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise AssertionError(f"the server did not start within {STARTS_WITHIN} s:\n{log.read_text()[-3000:]}")
