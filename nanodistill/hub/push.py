"""push(): a bundle becomes a commit on main, and a tag that stays.

    look      what is there: the repository, its files by hash, its tags
    send      the files that differ, in one commit on top of what was seen
    tag       the bundle's own tag on that commit

A push that is run again finds what is done: large files that arrived are recognized by their hash,
an unchanged main gets no commit, and a tag with the same content ends the work. A commit that
somebody else made in between is not overwritten: we look again. main holds what was pushed last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nanodistill.errors import InputError, RunIncompleteError
from nanodistill.events import Listener, Notice, ignore
from nanodistill.hub.client import (
    AGAIN,
    SECONDS_TO_ANSWER,
    ConflictError,
    Hub,
    RepositoryNotFoundError,
    commit_of,
    translate_errors,
)
from nanodistill.hub.secret_scan import check
from nanodistill.hub.upload_bundle import Known, UploadBundle, is_same, remote_hashes, size_of

MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class PushResult:
    """What a push came to. `uploaded` are the files sent, `commit` where the tag points."""

    repo: str
    kind: str
    tag: str
    commit: str
    url: str
    private: bool
    uploaded: tuple[str, ...]
    removed: tuple[str, ...]
    reused: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        seen = "private" if self.private else "public"
        done = "was there already; nothing was sent" if self.reused else "pushed"
        if self.uploaded:
            files = "file" if len(self.uploaded) == 1 else "files"
            done = f"pushed, {len(self.uploaded)} {files} sent"
        return f"{self.url} ({seen}), tag {self.tag}: {done}."


def push(
    parcel: UploadBundle,
    repo: str,
    *,
    public: bool = False,
    hub: Hub | None = None,
    allowed: Iterable[str] = (),
    on_event: Listener = ignore,
) -> PushResult:
    """Put `parcel` into the repository `repo`, which is made where it is missing.

    Args:
        public: make a new repository public, or push to one that is.
        allowed: texts that may be public though they look as if they should not.

    Raises:
        InputError: no token, no right, something in it that must not leave this machine, a
            public repository that was not asked for, or a tag that holds something else.
        RunIncompleteError: the network, the Hub or other pushes were in the way; run it again.
    """
    hub = hub or Hub()
    check(parcel, secrets=[hub.known_token()], allowed=allowed, on_event=on_event)
    work = PushRun(parcel, repo, public, hub, on_event)
    said = ""
    for _ in range(MAX_ATTEMPTS):
        try:
            return work.once()
        except ConflictError as stale:
            said = stale.message.rstrip(".")
            on_event(Notice(f"{repo} changed while it was looked at ({said}); looking again"))
    raise RunIncompleteError(f"{repo} is being changed by others: {said}.", next_step=AGAIN)


@dataclass(frozen=True)
class Remote:
    """What is in the repository at one commit: hashes by path, commits by tag."""

    commit: str
    private: bool
    hashes: Mapping[str, Known]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class PushRun:
    """One push on its way."""

    parcel: UploadBundle
    repo: str
    public: bool
    hub: Hub
    on_event: Listener

    def once(self) -> PushResult:
        remote = self._look_or_create()
        if not remote.private and not self.public:
            raise InputError(
                f"{self.repo} is public, and pushing there was not asked for.",
                next_step="Push with --public, or to another repository.",
            )
        if tagged := remote.tags.get(self.parcel.tag):
            return self._tagged_already(remote, tagged)
        changed = self._changed(remote.hashes)
        outdated = tuple(sorted(filter(self.parcel.outdated, remote.hashes)))
        commit = remote.commit
        if changed or outdated:
            commit = self._commit(remote, changed, outdated)
        with translate_errors(self.hub, self.repo, self.parcel.kind):
            self.hub.api.create_tag(
                self.repo, tag=self.parcel.tag, revision=commit, repo_type=self.parcel.kind
            )
        return self._pushed(remote, commit, changed, outdated, reused=False)

    def _look_or_create(self) -> Remote:
        try:
            return self._look()
        except RepositoryNotFoundError:
            self._create()
            return self._look()

    def _look(self) -> Remote:
        kind, api = self.parcel.kind, self.hub.api
        with translate_errors(self.hub, self.repo, kind):
            info = api.repo_info(self.repo, repo_type=kind, timeout=SECONDS_TO_ANSWER)
            refs = api.list_repo_refs(self.repo, repo_type=kind)
            tags = {tag.name: tag.target_commit for tag in refs.tags}
        commit, private = commit_of(info.sha, self.hub), bool(info.private)
        return Remote(commit, private, self._hashes(commit), tags)

    def _hashes(self, commit: str) -> dict[str, Known]:
        with translate_errors(self.hub, self.repo, self.parcel.kind):
            return remote_hashes(self.hub.api, self.repo, self.parcel.kind, commit)

    def _create(self) -> None:
        seen = "public" if self.public else "private"
        self.on_event(Notice(f"making the {seen} {self.parcel.kind} repository {self.repo}"))
        with translate_errors(self.hub, self.repo, self.parcel.kind):
            self.hub.api.create_repo(
                self.repo, private=not self.public, repo_type=self.parcel.kind, exist_ok=True
            )

    def _tagged_already(self, remote: Remote, commit: str) -> PushResult:
        if changed := self._changed(self._hashes(commit)):
            raise InputError(
                f"{self.repo} has a tag {self.parcel.tag} already, and it holds something else: "
                f"{', '.join(changed)}.",
                next_step="Push to another repository, or delete that tag on the Hub first.",
            )
        self.on_event(
            Notice(f"{self.repo} holds {self.parcel.name} already; nothing is left to do")
        )
        return self._pushed(remote, commit, (), (), reused=True)

    def _changed(self, hashes: Mapping[str, Known]) -> tuple[str, ...]:
        return tuple(
            path
            for path, content in sorted(self.parcel.files.items())
            if path not in hashes or not is_same(content, hashes[path])
        )

    def _commit(self, remote: Remote, changed: Iterable[str], outdated: Iterable[str]) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        contents = {path: self.parcel.files[path] for path in changed}
        size = sum(map(size_of, contents.values()))
        self.on_event(Notice(f"sending {len(contents)} files, {size / 1e6:.1f} MB, to {self.repo}"))
        with translate_errors(self.hub, self.repo, self.parcel.kind):
            done = self.hub.api.create_commit(
                self.repo,
                [
                    *(CommitOperationAdd(path, content) for path, content in contents.items()),
                    *(CommitOperationDelete(path) for path in outdated),
                ],
                commit_message=f"NanoDistill: {self.parcel.name}",
                repo_type=self.parcel.kind,
                parent_commit=remote.commit,
            )
        return str(done.oid)

    def _pushed(
        self,
        remote: Remote,
        commit: str,
        uploaded: tuple[str, ...],
        removed: tuple[str, ...],
        *,
        reused: bool,
    ) -> PushResult:
        kind = self.parcel.kind
        page = f"datasets/{self.repo}" if kind == "dataset" else self.repo
        return PushResult(
            repo=self.repo,
            kind=kind,
            tag=self.parcel.tag,
            commit=commit,
            url=f"{self.hub.name}/{page}",
            private=remote.private,
            uploaded=uploaded,
            removed=removed,
            reused=reused,
        )
