"""A hub of this machine: the few endpoints that an upload needs, with what was sent to them."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKENS = {"hf_good": 200, "hf_reader": 403}
"""What a token may do; any other is unknown."""
BIG = (".safetensors", ".bin", "tokenizer.json")
"""Files that go by way of the large file store."""


class Hub(ThreadingHTTPServer):
    """Repositories that were made, their files, and every request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[dict[str, Any]] = []
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    """A server for the length of the block."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.blobs[oid] = content
        self._answer(200, {})

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        self._answer(404, {"error": "nothing of that name"})

    def do_POST(self) -> None:  # noqa: PLR0912 - one answer an endpoint
        path, body = urlsplit(self.path).path, self._body()
        self.server.asked.append(f"POST {path}")
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
            return
        status = TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "), 401)
        if status != 200:
            said = {401: "Invalid username or password.", 403: "You do not have write access."}
            self._answer(status, {"error": said[status]})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = (
                f"{asked['organization']}/{asked['name']}"
                if asked.get("organization")
                else asked["name"]
            )
            if name in self.server.repos:
                self._answer(
                    409,
                    {"error": "You already created this", "url": f"{self.server.address}/{name}"},
                )
            else:
                self.server.repos[name] = asked
                self._answer(200, {"url": f"{self.server.address}/{name}", "name": name})
        elif path.startswith("/api/models/") and "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(BIG) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._answer(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": one["oid"],
                    "size": one["size"],
                    "actions": {
                        "upload": {
                            "href": f"{self.server.address}/store/{one['oid']}",
                            "header": {},
                        }
                    },
                }
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif path.startswith("/api/models/") and "/commit/" in path:
            name = "/".join(path.split("/")[3:5])
            own = self.server.files.setdefault(name, {})
            for line in body.decode().splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    own[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    own[value["path"]] = self.server.blobs[value["oid"]]
                else:
                    self.server.commits.append({**value, "branch": path.rpartition("/")[2]})
            url = f"{self.server.address}/{name}"
            proposed = "create_pr=1" in self.path
            self._answer(
                200,
                {
                    "success": True,
                    "commitOid": "c" * 40,
                    "commitUrl": f"{url}/commit/{'c' * 40}",
                    **({"pullRequestUrl": f"{url}/discussions/1"} if proposed else {}),
                },
            )
        else:
            self._answer(404, {"error": f"no {path} here"})
