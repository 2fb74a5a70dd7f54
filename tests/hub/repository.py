"""Repositories of the local Hub in memory: files, commits, branches, tags."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

LFS_PATTERNS = ("*.bin", "*.safetensors", "*.pt", "*.pth", "*.parquet", "*.arrow", "*.onnx", "*.zip", "*.gz", "*.npz")
"""What the Hub's own .gitattributes sends to LFS (a few of its patterns)."""
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()
"""The file that stands in every repository from its first commit on, as on the Hub."""
COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class File:
    """One content; `lfs` when it came as a large file, and then git holds only a pointer to it."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @cached_property
    def blob_id(self) -> str:
        """What git calls the file."""
        blob = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id


@dataclass(frozen=True)
class Commit:
    """One commit: `operations` are (kind, path) as the client sent them, `files` all that stands after it."""

    id: str
    title: str
    description: str
    operations: tuple[tuple[str, str], ...]
    parent: str | None
    author: str
    date: str
    files: Mapping[str, File] = field(repr=False)


@dataclass
class Repository:
    type: str
    id: str
    private: bool = False
    gated: str | bool = False
    let_in: set[str] = field(default_factory=set)
    """The accounts that may read the files of a gated repository, besides its owner."""
    history: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, of a tag or of a full commit hash."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        found = self.branches.get(name) or self.tags.get(name) or revision
        return self.history.get(found)

    def commit(
        self,
        branch: str,
        files: Mapping[str, File],
        title: str,
        author: str,
        operations: tuple[tuple[str, str], ...],
        description: str = "",
    ) -> Commit:
        """Make `files` the content of a branch."""
        parent = self.branches.get(branch)
        number = len(self.history)
        listing = "".join(f"{path} {file.blob_id}\n" for path, file in sorted(files.items()))
        name = hashlib.sha1(f"{self.type} {self.id} {parent} {number} {title}\n{listing}".encode()).hexdigest()
        date = (START + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        commit = Commit(name, title, description, operations, parent, author, date, dict(files))
        self.history[name] = commit
        self.branches[branch] = name
        return commit

    def log(self, commit: Commit) -> Iterator[Commit]:
        """A commit and those before it, newest first."""
        found: Commit | None = commit
        while found is not None:
            yield found
            found = self.history.get(found.parent or "")

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The newest commit, up to this one, that changed a file or something in a folder."""

        def content(of: Commit) -> dict[str, str]:
            return {name: f.blob_id for name, f in of.files.items() if name == path or name.startswith(path + "/")}

        latest = commit
        for earlier in self.log(commit):
            if content(earlier) != content(commit):
                break
            latest = earlier
        return latest


def new_repository(type_: str, id_: str, author: str, private: bool = False, gated: str | bool = False) -> Repository:
    """A repository as `create_repo` leaves it: one commit on main, with the .gitattributes."""
    repository = Repository(type_, id_, private, "manual" if gated is True else gated)
    repository.commit(
        "main", {".gitattributes": File(GITATTRIBUTES)}, "initial commit", author, (("file", ".gitattributes"),)
    )
    return repository
