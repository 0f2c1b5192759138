"""A small Hub on loopback: repositories with commits and tags, and what the real one refuses.

It speaks the part of the Hub's HTTP interface that huggingface_hub and datasets use
for repositories (https://huggingface.co/docs/hub/api), with large files by the basic
transfer of Git LFS. Every request is recorded.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from aiohttp import web

WRITER, READER, STRANGER = "hf_" + "w" * 34, "hf_" + "r" * 34, "hf_" + "s" * 34
ACCOUNTS = {WRITER: ("owner", True), READER: ("owner", False), STRANGER: ("stranger", True)}
LARGE = (".parquet", ".safetensors", ".gguf")

Files = dict[str, bytes]


@dataclass
class Repository:
    """`commits` by id, oldest first; main is the last of them."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> Files:
        return self.commits[self.main]

    def commit(self, files: Files) -> str:
        names = sorted((name, hashlib.sha1(body).hexdigest()) for name, body in files.items())
        oid = hashlib.sha1(f"{len(self.commits)} {names}".encode()).hexdigest()
        self.commits[oid] = dict(files)
        return oid

    def find(self, revision: str) -> str | None:
        known = {"main": self.main, **self.tags, **{oid: oid for oid in self.commits}}
        return known.get(revision)


class SmallHub:
    """`with SmallHub() as hub:` serves at `hub.endpoint` until the end of the block."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.before_commit: Callable[[], None] | None = None
        self.hold_back = False
        self.refusals: dict[str, int] = {}
        self.endpoint = ""
        self._loop = asyncio.new_event_loop()
        self._ready = Event()
        self._thread = Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def sent(self, what: str) -> list[str]:
        """The requests whose method and path hold `what`."""
        return [request for request in self.requests if what in request]

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        host, port = runner.addresses[0][:2]
        self.endpoint = f"http://{host}:{port}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26, middlewares=[self._guard])
        about = "/api/{kind:models|datasets}/{owner}/{name}"
        app.add_routes(
            [
                web.get("/api/whoami-v2", self.whoami),
                web.post("/api/repos/create", self.create),
                web.post("/api/validate-yaml", self.validate_yaml),
                web.put("/store/{oid}", self.store),
                web.get(about, self.info),
                web.get(about + "/revision/{revision}", self.info),
                web.get(about + "/refs", self.refs),
                web.get(about + "/tree/{revision}", self.tree),
                web.get(about + "/tree/{revision}/{path:.*}", self.tree),
                web.post(about + "/paths-info/{revision}", self.paths_info),
                web.post(about + "/preupload/{revision}", self.preupload),
                web.post(about + "/commit/{revision}", self.commit),
                web.post(about + "/tag/{revision}", self.tag),
            ]
        )
        for prefix, kind in (("/datasets", "datasets"), ("", "models")):
            there = f"{prefix}/{{owner}}/{{name}}"
            app.router.add_post(f"{there}.git/info/lfs/objects/batch", self.batch, name=kind)
            app.router.add_get(f"{there}/resolve/{{revision}}/{{path:.*}}", self.resolve)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        for what, status in self.refusals.items():
            if what in self.requests[-1]:
                return refuse(status, message="refused by the test")
        if token_of(request) not in {"", *ACCOUNTS}:
            return refuse(401, message="Invalid credentials in Authorization header")
        if "owner" in request.match_info:
            return await self._in_repository(request, handler)
        return await handler(request)  # type: ignore[no-any-return]

    async def _in_repository(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Private repositories are not there for others; writing takes the right to."""
        owner, (account, writes) = request.match_info["owner"], account_of(request)
        found = self.repositories.get((kind_of(request), repo_of(request)))
        if found is None or (found.private and account != owner):
            return refuse(404 if account else 401, "RepoNotFound", "Repository not found")
        if request.method == "POST" and not request.path.count("/paths-info/"):
            if account is None:
                return refuse(401, message="Invalid username or password.")
            if account != owner or not writes:
                return refuse(403, message="you must use a token with the right to write")
        revision = request.match_info.get("revision", "main")
        if found.find(revision) is None:
            return refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return await handler(request)  # type: ignore[no-any-return]

    def _at(self, request: web.Request) -> tuple[Repository, str]:
        """What is asked about; the guard has seen to it that it is there."""
        repository = self.repositories[kind_of(request), repo_of(request)]
        return repository, repository.find(request.match_info.get("revision", "main")) or ""

    def _files(self, request: web.Request) -> Files:
        repository, oid = self._at(request)
        return repository.commits[oid]

    def _page(self, kind: str, repo: str) -> str:
        return f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"

    async def whoami(self, request: web.Request) -> web.Response:
        account, _ = account_of(request)
        if account is None:
            return refuse(401, message="Invalid username or password.")
        return web.json_response({"type": "user", "name": account, "orgs": []})

    async def create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        account, writes = account_of(request)
        owner = asked.get("organization") or account
        if account != owner or not writes:
            return refuse(403, message=f"You don't have the rights to create under {owner}")
        kind, repo = asked.get("type") or "model", f"{owner}/{asked['name']}"
        url = self._page(kind, repo)
        if (kind, repo) in self.repositories:
            return web.json_response(
                {"error": "You already created this repo", "url": url}, status=409
            )
        private = asked.get("private") or asked.get("visibility") == "private"
        self.add(kind, repo, {".gitattributes": b"*.parquet filter=lfs\n"}, private=bool(private))
        return web.json_response({"url": url})

    def add(self, kind: str, repo: str, files: Files, *, private: bool) -> Repository:
        made = Repository(private)
        made.commit(files)
        self.repositories[kind, repo] = made
        return made

    async def validate_yaml(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if not asked["content"].startswith("---\n"):
            return web.json_response({"errors": [], "warnings": [{"message": "no metadata"}]})
        return web.json_response({"errors": [], "warnings": []})

    async def info(self, request: web.Request) -> web.Response:
        (repository, oid), repo = self._at(request), repo_of(request)
        siblings = [{"rfilename": name} for name in sorted(repository.commits[oid])]
        return web.json_response(
            {
                "id": repo, "modelId": repo, "sha": oid, "private": repository.private,
                "siblings": siblings, "tags": [], "downloads": 0, "likes": 0,
            }
        )  # fmt: skip

    async def refs(self, request: web.Request) -> web.Response:
        repository, _ = self._at(request)

        def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}
                for name, oid in refs.items()
            ]

        main = listed("heads", {"main": repository.main})
        tags = listed("tags", repository.tags)
        return web.json_response({"branches": main, "tags": tags, "converts": []})

    async def tree(self, request: web.Request) -> web.Response:
        files, under = self._files(request), request.match_info.get("path", "").strip("/")
        inside = [name for name in files if not under or name.startswith(f"{under}/")]
        if under and not inside:
            return refuse(404, "EntryNotFound", "no such folder")
        folders = {"/".join(n.split("/")[:i]) for n in inside for i in range(1, n.count("/") + 1)}
        entries = [folder_entry(name) for name in sorted(folders) if name != under]
        entries += [file_entry(name, files[name]) for name in sorted(inside)]
        if request.query.get("recursive", "").lower() not in ("true", "1"):
            depth = under.count("/") + 1 if under else 0
            entries = [entry for entry in entries if entry["path"].count("/") == depth]
        return web.json_response(entries)

    async def paths_info(self, request: web.Request) -> web.Response:
        if request.content_type == "application/json":
            asked = list((await request.json())["paths"])
        else:
            asked = [str(path) for path in (await request.post()).getall("paths")]
        files = self._files(request)
        entries = [file_entry(name, files[name]) for name in asked if name in files]
        entries += [
            folder_entry(name) for name in asked if any(f.startswith(f"{name}/") for f in files)
        ]
        return web.json_response(entries)

    async def preupload(self, request: web.Request) -> web.Response:
        files = self._files(request)

        def mode(path: str) -> dict[str, Any]:
            known = {"oid": file_entry(path, files[path])["oid"]} if path in files else {}
            large = path.endswith(LARGE)
            way = "lfs" if large else "regular"
            return {"path": path, "uploadMode": way, "shouldIgnore": False, **known}

        asked = (await request.json())["files"]
        return web.json_response({"files": [mode(file["path"]) for file in asked]})

    async def batch(self, request: web.Request) -> web.Response:
        def answer(wanted: dict[str, Any]) -> dict[str, Any]:
            if wanted["oid"] in self.large:
                return wanted
            upload = {"href": f"{self.endpoint}/store/{wanted['oid']}"}
            return {**wanted, "actions": {"upload": upload}}

        objects = [answer(wanted) for wanted in (await request.json())["objects"]]
        body = json.dumps({"transfer": "basic", "objects": objects})
        return web.Response(text=body, content_type="application/vnd.git-lfs+json")

    async def store(self, request: web.Request) -> web.Response:
        body = await request.read()
        oid = hashlib.sha256(body).hexdigest()
        if oid != request.match_info["oid"]:
            return refuse(400, message="the content does not have this hash")
        self.large[oid] = body
        return web.Response()

    async def commit(self, request: web.Request) -> web.Response:
        lines = [json.loads(line) for line in (await request.text()).splitlines()]
        hold_back = self.hold_back
        if self.before_commit is not None:
            await asyncio.to_thread(self.before_commit)
        if hold_back:
            return refuse(503, message="the one who asked is gone")
        repository, _ = self._at(request)
        if lines[0]["value"].get("parentCommit", repository.main) != repository.main:
            return refuse(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repository.files)
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.large[line["value"]["oid"]]
            else:
                del files[path]
        oid = repository.commit(files)
        page = self._page(kind_of(request), repo_of(request))
        return web.json_response({"commitUrl": f"{page}/commit/{oid}", "commitOid": oid})

    async def tag(self, request: web.Request) -> web.Response:
        repository, oid = self._at(request)
        name = (await request.json())["tag"]
        if name in repository.tags:
            return refuse(409, message="Tag reference exists already")
        repository.tags[name] = oid
        return web.Response()

    async def resolve(self, request: web.Request) -> web.Response:
        about = {"X-Repo-Commit": self._at(request)[1]}
        name = request.match_info["path"]
        files = self._files(request)
        if name not in files:
            return refuse(404, "EntryNotFound", "Entry not found", **about)
        entry = file_entry(name, files[name])
        about["ETag"] = f'"{entry["oid"]}"'
        if "lfs" in entry:
            about["X-Linked-ETag"] = f'"{entry["lfs"]["oid"]}"'
            about["X-Linked-Size"] = str(entry["size"])
        body = files[name]
        if asked := request.http_range.start:
            return web.Response(body=body[asked:], status=206, headers=about)
        return web.Response(body=body, headers=about)


def kind_of(request: web.Request) -> str:
    kind = request.match_info.get("kind")
    is_dataset = kind == "datasets" if kind else request.path.startswith("/datasets/")
    return "dataset" if is_dataset else "model"


def repo_of(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def token_of(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def account_of(request: web.Request) -> tuple[str | None, bool]:
    """Whose token it is, and whether it may write."""
    return ACCOUNTS.get(token_of(request), (None, False))


def file_entry(name: str, body: bytes) -> dict[str, Any]:
    git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    entry = {"type": "file", "path": name, "size": len(body), "oid": git}
    if name.endswith(LARGE):
        sha256 = hashlib.sha256(body).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(body), "pointerSize": 130}
    return entry


def folder_entry(name: str) -> dict[str, Any]:
    return {
        "type": "directory",
        "path": name,
        "size": 0,
        "oid": hashlib.sha1(name.encode()).hexdigest(),
    }


def refuse(status: int, code: str = "", message: str = "", **headers: str) -> web.Response:
    named = {"X-Error-Code": code, "X-Error-Message": message}
    headers |= {name: text for name, text in named.items() if text}
    return web.json_response({"error": message}, status=status, headers=headers)
