"""A judge behind HTTP that answers by a rule: a real server in this process, in the place of a remote program."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Rule = Callable[[str], str | tuple[int, str]]
"""From a prompt to what is answered, or to a status and a body."""
BETWEEN = re.compile(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n\nWhich answer", re.DOTALL)
ALONE = re.compile(r"Answer:\n(.*)\n\nHow good", re.DOTALL)


@dataclass
class Remote:
    """Where it is, and what it was asked."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": "server", "url": self.url, "model": "rule"}


@contextmanager
def remote(rule: Rule) -> Iterator[Remote]:
    """The server, while the block runs."""
    found = Remote()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.bodies.append(body)
            found.keys.append(self.headers.get("Authorization"))
            said = rule(body["messages"][0]["content"])
            status, content = said if isinstance(said, tuple) else (200, _completion(said))
            data = content.encode()
            self.send_response(status if self.path == "/v1/chat/completions" else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _completion(text: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def preferring(value: Callable[[str], float]) -> Rule:
    """A judge that prefers what has more value, and gives it so many points."""

    def rule(prompt: str) -> str:
        both = BETWEEN.search(prompt)
        if both is None:
            alone = ALONE.search(prompt)
            assert alone is not None
            return str(max(1, min(10, round(value(alone[1])))))
        one, two = value(both[1]), value(both[2])
        return "tie" if one == two else "A" if one > two else "B"

    return rule
