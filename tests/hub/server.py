"""A small Hugging Face Hub on this machine, for tests: the real clients talk to it, nothing in them is replaced.

It speaks the calls that `huggingface_hub` and `datasets` make for creating repositories, committing to them and reading
from them. Everything is in memory. Large files lie at a second address, as the real Hub's do; that address refuses
calls that carry a token. It knows neither Xet nor pull requests.
"""

import os
import re
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.hub.exchange import Answer, Call
from tests.hub.handler import Server
from tests.hub.large_files import is_large
from tests.hub.plans import Plan
from tests.hub.repository import Commit, File, Repository, new_repository
from tests.hub.state import Account, State

TOKEN = "hf_" + "localHubForTests" * 2


class LocalHub:
    """A Hub with one account, whose token is `token`; a context manager."""

    def __init__(
        self,
        user: str = "someone",
        token: str = TOKEN,
        organizations: tuple[str, ...] = (),
        page_size: int = 1000,
    ):
        self.user = user
        self.token = token
        self.state = State({token: Account(user, "write", organizations)}, page_size)
        self.servers: list[Server] = []

    def __enter__(self) -> Self:
        self.servers = [Server(self.state, storage) for storage in (False, True)]
        self.state.endpoint, self.state.storage = (server.address for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """The Hub can no longer be reached; what it holds may still be looked at."""
        while self.servers:
            self.servers.pop().close()

    @property
    def endpoint(self) -> str:
        return self.state.endpoint

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables for a process that shall use this Hub, with caches of its own below `folder`."""
        theirs = re.compile(r"HF_(?!MTL_)|HUGGINGFACE_|HUGGING_FACE_|TRANSFORMERS_OFFLINE")
        kept = {name: value for name, value in os.environ.items() if not theirs.match(name)}
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "hf_home"),
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets would call another host
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        repo_type: str = "model",
        private: bool = False,
        gated: bool | str = False,
    ) -> Commit:
        """A ready repository with two commits: the one of `create_repo`, and one with these files."""
        with self.state.lock:
            repository = new_repository(repo_type, repo_id, repo_id.split("/")[0], private, gated)
            kept = {path: File(data, is_large(path, len(data), data[:512])) for path, data in files.items()}
            self.state.objects |= {file.sha256: file.content for file in kept.values() if file.lfs}
            self.state.repositories[repo_type, repo_id] = repository
            content = {**repository.history[repository.branches["main"]].files, **kept}
            operations = tuple(("lfsFile" if file.lfs else "file", path) for path, file in kept.items())
            return repository.commit("main", content, "Add files", repository.namespace, operations)

    def add_account(self, name: str, token: str, role: str = "write", organizations: tuple[str, ...] = ()) -> None:
        """Another token that this Hub knows; `role` is `write` or `read`. The same name may have several tokens."""
        self.state.accounts[token] = Account(name, role, organizations)

    def let_in(self, repo_id: str, user: str | None = None, repo_type: str = "model") -> None:
        """Allow an account to read the files of a gated repository."""
        self.repository(repo_id, repo_type).let_in.add(user or self.user)

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        return self.state.repositories[repo_type, repo_id]

    def repositories(self) -> list[tuple[str, str, bool]]:
        """(type, id, private) in the order in which they were made."""
        return [(found.type, found.id, found.private) for found in self.state.repositories.values()]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """All files at a revision, the .gitattributes of the first commit among them."""
        return {path: file.content for path, file in self.commits(repo_id, repo_type, revision)[0].files.items()}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[Commit]:
        """Newest first; the last one is the "initial commit" of `create_repo`."""
        repository = self.repository(repo_id, repo_type)
        commit = repository.find(revision)
        if commit is None:
            raise KeyError(f"{repo_id} has no revision {revision}")
        return list(repository.log(commit))

    @property
    def requests(self) -> list[Call]:
        """All calls so far, those to the storage of large files among them; a connection cut has the status 0."""
        with self.state.lock:
            return list(self.state.calls)

    @property
    def uploads(self) -> Counter[str]:
        """Bytes received of each large file, by its SHA-256; what was cut or refused counts too."""
        with self.state.lock:
            return Counter(self.state.uploads)

    def fail(
        self,
        method: str,
        path_pattern: str,
        times: int,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> None:
        """Answer the next `times` such calls so, without carrying them out. The pattern may match anywhere."""
        answer = Answer(status, body or b"", headers or {})
        self.state.plans.add(Plan(method, re.compile(path_pattern), times, answer))

    def cut(self, method: str, path_pattern: str, times: int, after_bytes: int, reset: bool = False) -> None:
        """End the connection of the next `times` such calls in the middle.

        A call with a body ends after so many bytes of it were read, without an answer, and is not carried out; any
        other ends after so many bytes of the answer's body. `reset` ends it with a reset (ECONNRESET).
        """
        self.state.plans.add(Plan(method, re.compile(path_pattern), times, None, after_bytes, reset))

    def lose(self, method: str, path_pattern: str, times: int = 1) -> None:
        """Carry out the next `times` such calls, and end the connection in place of the answer."""
        self.state.plans.add(Plan(method, re.compile(path_pattern), times))
