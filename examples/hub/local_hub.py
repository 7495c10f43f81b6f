"""A Hugging Face Hub for one machine: the routes that huggingface_hub's client uses for models, over a real socket.

    python examples/hub/local_hub.py                serves on http://127.0.0.1:8000 until Ctrl-C; all is kept in memory
    export HF_ENDPOINT=http://127.0.0.1:8000        in the terminal that is to use it

For trying out pushing and loading without an account, and for tests. Anybody may read public repositories; a token
`hf_NAME` is user NAME's, who may write to repositories under NAME and under the organisations given with --org.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class RefusedError(Exception):
    """A request that is answered with an error: its status and the Hub's name for it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.status, self.code = status, code


@dataclass
class Commit:
    """The files of a repository at one time."""

    id: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """A model repository: commits by id, and the branches and tags that point to them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], *, title: str, ref: str = "main") -> Commit:
        """A commit that holds exactly these files; the ref points to it from then on."""
        text = json.dumps([title, ref, len(self.commits), time.time_ns(), *sorted(files)])
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), title, dict(files))
        self.commits[made.id] = made
        self.refs[ref] = made.id
        return made

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag or an id."""
        found = self.commits.get(self.refs.get(revision, revision))
        if found is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found


class LocalHub:
    """Repositories by name, users by token, large files by their SHA-256.

    With ``lfs`` large files arrive apart from the commit, as on the real Hub; the client then has to run with
    HF_HUB_DISABLE_XET=1, since this server does not speak Xet. Without it they are part of the commit.

    ``faults`` maps the beginning of a request's line ("PUT /lfs", "GET /acme/net/resolve") to what goes wrong with it:
    ``"cut"`` breaks off in the middle of the answer, a number answers with that status. ``requests`` holds all lines.
    """

    def __init__(self, orgs: Mapping[str, set[str]] | None = None, *, lfs: bool = False) -> None:
        self.lfs = lfs
        self.repositories: dict[str, Repository] = {}
        self.orgs = dict(orgs or {})
        self.large: dict[str, bytes] = {}
        self.faults: dict[str, str | int] = {}
        self.requests: list[str] = []
        #: Called before a request whose line begins so is answered: what others do meanwhile.
        self.before: dict[str, Callable[[], object]] = {}
        self.lock = threading.RLock()

    def add(self, name: str, files: Mapping[str, bytes], *, private: bool = False, gated: bool = False) -> Repository:
        """A repository with these files in its first commit."""
        made = self.repositories[name] = Repository(private, gated)
        made.commit(files, title="first")
        return made

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """The Hub's address while the block runs."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    # -- who may do what -----------------------------------------------------------------------------------------

    def readable(self, name: str, user: str | None) -> Repository:
        """A repository, if this user may know of it."""
        found = self.repositories.get(name)
        if found is None or (found.private and not self.owns(name, user)):
            raise RefusedError(404, "RepoNotFound", "Repository not found")
        if found.gated and not self.owns(name, user):
            raise RefusedError(403, "GatedRepo", "Access to this model is restricted")
        return found

    def writable(self, name: str, user: str | None) -> Repository:
        """A repository, if this user may write to it."""
        found = self.readable(name, user)
        if not self.owns(name, user):
            raise RefusedError(403, "", "You don't have the rights to write to this repository")
        return found

    def owns(self, name: str, user: str | None) -> bool:
        """Whether a repository is the user's own or one of the user's organisations."""
        owner = name.partition("/")[0]
        return user is not None and (owner == user or user in self.orgs.get(owner, set()))


class _Handler(BaseHTTPRequestHandler):
    """One request. Names of routes as in huggingface_hub's client."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        hub, line = self.hub, f"{self.command} {unquote(urlsplit(self.path).path)}"
        hub.requests.append(line)
        for start, act in hub.before.items():
            if line.startswith(start):
                act()
        self.fault = next((what for start, what in hub.faults.items() if line.startswith(start)), None)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.user = token.removeprefix("hf_") if token.startswith("hf_") else None
        try:
            if isinstance(self.fault, int):
                raise RefusedError(self.fault, "", "a fault")
            if token and self.user is None:
                raise RefusedError(401, "", "Invalid credentials in Authorization header")
            with hub.lock:
                self._route(urlsplit(self.path).path.strip("/").split("/"))
        except RefusedError as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            self._send(
                json.dumps({"error": str(error)}).encode(),
                {**headers, "X-Error-Message": str(error)},
                status=error.status,
            )

    def _route(self, parts: list[str]) -> None:
        parts = [unquote(part) for part in parts]
        if parts[0] == "lfs" and len(parts) == 2:
            return self._put_large(parts[1])
        if parts[0] == "api":
            return self._api(parts[1:])
        if len(parts) > 2 and parts[1].endswith(".git") and parts[2:] == ["info", "lfs", "objects", "batch"]:
            return self._batch(f"{parts[0]}/{parts[1].removesuffix('.git')}")
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise RefusedError(404, "", "No such route")

    def _api(self, parts: list[str]) -> None:
        if parts == ["whoami-v2"]:
            if self.user is None:
                raise RefusedError(401, "", "Invalid username or password.")
            orgs = [{"name": org} for org, users in self.hub.orgs.items() if self.user in users]
            return self._json({"type": "user", "name": self.user, "orgs": orgs})
        if parts == ["validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if parts == ["repos", "create"]:
            return self._create(self._given())
        if parts[0] == "models" and len(parts) >= 3:
            name, rest = "/".join(parts[1:3]), parts[3:]
            if rest[:1] in ([], ["revision"]):
                return self._info(name, rest[1] if rest else "main")
            if rest[0] == "tree":
                return self._tree(name, rest[1])
            if rest[0] == "paths-info":
                return self._paths(name, rest[1])
            if rest[0] == "refs":
                refs = self.hub.readable(name, self.user).refs
                return self._json(
                    {
                        "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in refs.items()],
                        "tags": [],
                        "converts": [],
                    }
                )
            if rest[0] == "branch":
                repository = self.hub.writable(name, self.user)
                start = self._given().get("startingPoint") or "main"
                if rest[1] in repository.refs:
                    raise RefusedError(409, "", "Reference already exists")
                repository.refs[rest[1]] = repository.at(start).id
                return self._json({})
            if rest[0] == "preupload":
                return self._preupload(name, rest[1])
            if rest[0] == "commit":
                return self._commit(name, rest[1])
        raise RefusedError(404, "", "No such route")

    # -- reading -------------------------------------------------------------------------------------------------

    def _resolve(self, name: str, revision: str, file: str) -> None:
        commit = self.hub.readable(name, self.user).at(revision)
        if file not in commit.files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        self._send(
            commit.files[file],
            {
                "ETag": f'"{hashlib.sha256(commit.files[file]).hexdigest()}"',
                "X-Repo-Commit": commit.id,
                "Accept-Ranges": "none",
            },
        )

    def _info(self, name: str, revision: str) -> None:
        repository = self.hub.readable(name, self.user)
        commit = repository.at(revision)
        self._json(
            {
                "_id": commit.id[:24],
                "id": name,
                "modelId": name,
                "sha": commit.id,
                "private": repository.private,
                "gated": repository.gated,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": file} for file in commit.files],
            }
        )

    def _tree(self, name: str, revision: str) -> None:
        commit = self.hub.readable(name, self.user).at(revision)
        self._json([_entry(path, data) for path, data in commit.files.items()])

    def _paths(self, name: str, revision: str) -> None:
        commit = self.hub.readable(name, self.user).at(revision)
        given = self._given().get("paths", [])
        self._json([_entry(path, commit.files[path]) for path in given if path in commit.files])

    # -- writing -------------------------------------------------------------------------------------------------

    def _create(self, given: Mapping[str, Any]) -> None:
        owner = given.get("organization") or self.user
        name = f"{owner}/{given['name']}"
        if self.user is None:
            raise RefusedError(401, "", "Invalid username or password.")
        if not self.hub.owns(name, self.user):
            raise RefusedError(403, "", f"You don't have the rights to create a model under the namespace {owner!r}")
        place = {"url": f"{self._address()}/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            known = {"error": "You already created this model repo", **place}
            return self._send(json.dumps(known).encode(), status=409)
        private = bool(given.get("private")) or given.get("visibility") == "private"
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, private=private)
        return self._json(place)

    def _preupload(self, name: str, revision: str) -> None:
        files = self.hub.writable(name, self.user).at(revision).files
        answer = []
        for file in self._given()["files"]:
            path = file["path"]
            known = files.get(path)
            large = self.hub.lfs and path.endswith((".safetensors", ".onnx", ".pt2"))
            answer.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if known is None else _oid(known, large=large),
                }
            )
        self._json({"files": answer})

    def _batch(self, name: str) -> None:
        self.hub.writable(name, self.user)
        objects = []
        for wanted in self._given()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            href = f"{self._address()}/lfs/{oid}"
            new = {} if oid in self.hub.large else {"actions": {"upload": {"href": href, "header": {}}}}
            objects.append({"oid": oid, "size": size, **new})
        self._json({"transfer": "basic", "objects": objects})

    def _put_large(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusedError(400, "", "The data are not those of their name")
        self.hub.large[oid] = self.body
        self._send(b"")

    def _commit(self, name: str, revision: str) -> None:
        """One commit or none: all files of a request, or an error."""
        repository = self.hub.writable(name, self.user)
        parent = repository.at(revision)
        files, title = dict(parent.files), ""
        for line in self.body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, parent.id):
                    raise RefusedError(412, "", "A commit has happened since. Please refresh and try again.")
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise RefusedError(400, "", "A large file has not been uploaded")
                files[value["path"]] = self.hub.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        made = repository.commit(files, title=title, ref=revision)
        self._json(
            {
                "success": True,
                "commitOid": made.id,
                "commitUrl": f"{self._address()}/{name}/commit/{made.id}",
                "hookOutput": "",
            }
        )

    # -- answers -------------------------------------------------------------------------------------------------

    def _given(self) -> dict[str, Any]:
        given: dict[str, Any] = json.loads(self.body or b"{}")
        return given

    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, data: bytes, headers: Mapping[str, str] | None = None, *, status: int = 200) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data)


def _oid(data: bytes, *, large: bool) -> str:
    """How the Hub names a file's content: a large one by its SHA-256, any other as git does."""
    if large:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    large = path.endswith(".safetensors")
    pointer = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
    return {
        "type": "file",
        "path": path,
        "size": len(data),
        "oid": _oid(data, large=False),
        **(pointer if large else {}),
    }


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--org",
        action="append",
        default=[],
        metavar="ORG=USER,USER",
        help="an organisation and its members; may be given several times",
    )
    given = parser.parse_args()
    orgs = {org: set(users.split(",")) for org, _, users in (text.partition("=") for text in given.org)}
    with LocalHub(orgs).serve(given.port) as address:
        print(
            f"A Hub on {address}, until Ctrl-C. In another terminal:\n  export HF_ENDPOINT={address} HF_TOKEN=hf_me",
            flush=True,
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Everything it held is gone.")


if __name__ == "__main__":
    main()
