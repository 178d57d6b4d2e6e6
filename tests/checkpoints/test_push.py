"""Pushes against a hub on this machine: its HTTP as the client speaks it, large files by the LFS protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from sombrero.checkpoints import push
from sombrero.checkpoints.push import check_repository
from sombrero.errors import CheckpointError
from tests.checkpoints.bakes import bake_tiny, tree
from tests.tiny_models import save_tiny

COMMIT = "https://huggingface.co/me/edited/commit/" + "1" * 40


class Hub(ThreadingHTTPServer):
    """Keeps what is pushed to it: ``files`` of commits (path -> sha256), ``objects`` of uploads (sha256 -> bytes)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.sent: list[str] = []
        self.takes = 10**6  # uploads, then no more

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if method == "PUT":
            name = path.rsplit("/", 1)[-1]
            if len(self.sent) >= self.takes:
                return 403, {"error": "quota"}
            self.sent.append(name)
            self.objects[name] = body
            return 200, {}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.endpoint}/me/edited"}
        if "/preupload/" in path:
            large = {
                item["path"]: "lfs" if item["path"].endswith(".safetensors") else "regular"
                for item in json.loads(body)["files"]
            }
            return 200, {
                "files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in large.items()]
            }
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._object(item) for item in json.loads(body)["objects"]]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = hashlib.sha256(base64.b64decode(value["content"])).hexdigest()
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = value["oid"]
            return 200, {"commitUrl": COMMIT, "commitOid": "1" * 40, "hookOutput": "", "success": True}
        return 200, {"errors": [], "warnings": [], "id": "me/edited", "sha": "0" * 40, "siblings": []}

    def _object(self, item: dict[str, Any]) -> dict[str, Any]:
        actions = {} if item["oid"] in self.objects else {"upload": {"href": f"{self.endpoint}/objects/{item['oid']}"}}
        return {"oid": item["oid"], "size": item["size"]} | ({"actions": actions} if actions else {})


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = self.server.answer(self.command, self.path, body)
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_HEAD = _answer  # noqa: N815 - names of the library

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token="hf_none")


def test_all_files_arrive_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    out = bake_tiny(source, tmp_path / "out").out
    expected = tree(out)
    (out / ".cache").mkdir()
    (out / ".cache" / "left").write_text("over")
    (out / "model.safetensors.unfinished").write_text("half")
    assert push(out, "me/edited", api=api(hub)) == COMMIT
    assert hub.files == expected
    assert {hashlib.sha256(content).hexdigest() for content in hub.objects.values()} == set(hub.objects)
    assert all(name in hub.objects for path, name in expected.items() if path.endswith(".safetensors"))
    assert hub.created[0]["visibility"] == "private"


def test_a_push_that_broke_goes_on(hub: Hub, tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "base", max_shard_size="60KB")
    out = bake_tiny(source, tmp_path / "out").out
    before = tree(out)
    hub.takes = 1
    with pytest.raises(CheckpointError, match=r"hub did not take 'me/edited'.*complete in .*push again"):
        push(out, "me/edited", api=api(hub))
    assert tree(out) == before and not hub.files
    hub.takes = 10**6
    push(out, "me/edited", api=api(hub))
    assert hub.files == before
    assert len(hub.sent) == len(set(hub.sent))  # nothing is sent twice


def test_no_hub_no_name_no_bake(hub: Hub, tmp_path: Path) -> None:
    out = bake_tiny(save_tiny("llama", tmp_path / "base"), tmp_path / "out").out
    before = tree(out)
    closed = HfApi(endpoint="http://127.0.0.1:9", token="hf_none")
    with pytest.raises(CheckpointError, match="complete in"):
        push(out, "me/edited", api=closed)
    with pytest.raises(CheckpointError, match="no baked checkpoint"):
        push(tmp_path / "base", "me/edited", api=api(hub))
    for name in ("a/b/c", "a b", "../x", ""):
        with pytest.raises(CheckpointError, match="give owner/name"):
            check_repository(name)
    assert tree(out) == before and not hub.files and not hub.created
