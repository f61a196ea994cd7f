"""A hub on loopback for the real client: one account, its repositories and their large files."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

IDENTITY = {
    "type": "user",
    "name": "me",
    "orgs": [{"name": "lab", "roleInOrg": "write"}, {"name": "club", "roleInOrg": "read"}],
    "auth": {"accessToken": {"displayName": "t", "role": "write"}},
}


@dataclass
class FakeHub:
    """What the hub holds, and what was asked of it."""

    address: str = ""
    identity: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(IDENTITY)))
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Name to path to content."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 to content of the large files received."""
    sent: list[str] = field(default_factory=list)
    """SHA-256 of each large file that was sent, in order."""
    commits: list[list[str]] = field(default_factory=list)
    """Paths of each commit."""
    created: list[dict[str, Any]] = field(default_factory=list)
    refuse_put: int | None = None
    """Which large file is refused, counted from 1."""
    refuse_commit: bool = False

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        """Returns status, JSON data and headers."""
        if path == "/api/whoami-v2":
            if not self.identity:
                return 401, {"error": "Invalid user token."}, {}
            return 200, self.identity, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.created.append(asked)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.repositories:
                return 409, {"error": "exists", "url": f"{self.address}/datasets/{name}"}, {}
            self.repositories[name] = {}
            return 200, {"url": f"{self.address}/datasets/{name}"}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if path.startswith("/objects/"):
            self.sent.append(path.removeprefix("/objects/"))
            if len(self.sent) == self.refuse_put:
                return 403, {"error": "the disk of the hub is full"}, {}
            self.objects[hashlib.sha256(body).hexdigest()] = body
            return 200, {}, {}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, self._batch(json.loads(body)["objects"]), {}
        if path.startswith("/api/datasets/"):
            owner, name, *rest = path.removeprefix("/api/datasets/").split("/")
            return self._repository(f"{owner}/{name}", rest, body)
        return 404, {"error": f"{method} {path}"}, {}

    def _batch(self, objects: list[dict[str, Any]]) -> dict[str, Any]:
        answers = []
        for wanted in objects:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                href = f"{self.address}/objects/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": href, "header": {}}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def _repository(
        self, name: str, rest: list[str], body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        files = self.repositories[name]
        if not rest:
            siblings = [{"rfilename": path} for path in files]
            return 200, {"id": name, "sha": "0" * 40, "siblings": siblings}, {}
        if rest[0] == "preupload":
            asked = json.loads(body)["files"]
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".parquet") else "regular",
                    "shouldIgnore": False,
                }
                for one in asked
            ]
            return 200, {"files": modes}, {}
        assert rest[0] == "commit"
        if self.refuse_commit:
            return 403, {"error": "no more commits"}, {}
        changed = []
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            if "path" in value:
                changed.append(value["path"])
        self.commits.append(changed)
        url = f"{self.address}/datasets/{name}/commit/1"
        return 200, {"success": True, "commitOid": "1" * 40, "commitUrl": url}, {}


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Runs a hub on a free port of loopback."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            status, data, headers = hub.answer(self.command, path, self._body())
            encoded = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
