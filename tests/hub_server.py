"""A server on loopback that speaks as much of the hub's API as is asked for data set repositories, and fails by a script.

`with HubServer() as hub: commit = hub.push("lab/tasks", {"a.jsonl": b"…"}); hub.use(monkeypatch, cache)`. What it was asked
is in `asked`: method, path and range, in order.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest

PAGE = 2
"""Files on one page of a tree, so that three are on two."""
_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class HubServer:
    """Repositories with their commits, newest last."""

    token: str = ""
    """If set, what a request must bring."""
    forbidden: bool = False
    """Whether a token is not enough: the terms were not accepted."""
    busy: int = 0
    """Answers of 429 that are still to come."""
    cut: int = 0
    """File bodies that still break off in their middle."""
    stall_at: str = ""
    """A file whose second half never comes."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)

    def push(self, repository: str, files: dict[str, bytes]) -> str:
        """A new commit with these files and no other; returns its name."""
        commits = self.repositories.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository}{len(commits)}".encode()).hexdigest()
        commits[commit] = dict(files)
        return commit

    def use(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        """Have huggingface_hub in this process ask here, without waiting long, and keep files under `cache`."""
        from huggingface_hub import constants
        from huggingface_hub.utils import _http

        patch.setattr(constants, "ENDPOINT", self.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(_http.time, "sleep", lambda _: None)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def files(self) -> Counter[str]:
        """How often each file was sent, whole or in part."""
        return Counter(
            path.rpartition("/")[2] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path
        )

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._stopped = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        """One request."""
        url = urlsplit(to.path)
        self.asked.append((to.command, url.path, to.headers.get("Range", "")))
        if self.busy:
            self.busy -= 1
            return self._error(to, 429, "", {"Retry-After": "0"})
        if self.token and to.headers.get("Authorization") != f"Bearer {self.token}":
            return self._error(to, 401, "GatedRepo")
        if self.forbidden:
            return self._error(to, 403, "GatedRepo")
        if found := _FILE.fullmatch(url.path):
            return self._file(to, *found.groups())
        if not (found := _API.fullmatch(url.path)) or found[1] not in self.repositories:
            return self._error(to, 404, "RepoNotFound")
        commits = self.repositories[found[1]]
        commit = list(commits)[-1] if found[3] in (None, "main") else found[3]
        if commit not in commits:
            return self._error(to, 404, "RevisionNotFound")
        if found[2] == "tree":
            return self._tree(to, url.path, commits[commit], int(parse_qs(url.query).get("cursor", ["0"])[0]))
        siblings = [{"rfilename": name} for name in commits[commit]]
        return self._json(to, {"id": found[1], "sha": commit, "siblings": siblings, "tags": [], "private": False})

    def _tree(self, to: BaseHTTPRequestHandler, path: str, files: dict[str, bytes], start: int) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in sorted(files.items())
        ]
        more = {"Link": f'<{self.url}{path}?recursive=true&cursor={start + PAGE}>; rel="next"'}
        self._json(to, entries[start : start + PAGE], more if start + PAGE < len(entries) else {})

    def _file(self, to: BaseHTTPRequestHandler, repository: str, commit: str, name: str) -> None:
        data = self.repositories.get(repository, {}).get(commit, {}).get(name)
        if data is None:
            return self._error(to, 404, "EntryNotFound")
        start = int(re.sub(r"\D", "", to.headers.get("Range", "").partition("-")[0]) or 0)
        body = data[start:]
        to.send_response(206 if start else 200)
        to.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        to.send_header("X-Repo-Commit", commit)
        to.send_header("Accept-Ranges", "bytes")
        to.send_header("Content-Length", str(len(body)))
        if start:
            to.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        to.end_headers()
        if to.command == "HEAD":
            return None
        if self.stall_at == name or self.cut:
            self.cut = max(0, self.cut - 1)
            to.wfile.write(body[: len(body) // 2])
            to.wfile.flush()
            if self.stall_at == name:
                self._stopped.wait(60)
            to.close_connection = True
            return None
        to.wfile.write(body)
        return None

    def _json(self, to: BaseHTTPRequestHandler, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(to, 200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _error(self, to: BaseHTTPRequestHandler, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        said = {"X-Error-Code": code} if code else {}
        self._send(to, status, b'{"error": "refused"}', {"Content-Type": "application/json", **said, **(headers or {})})

    def _send(self, to: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        to.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            to.send_header(name, value)
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(body)
