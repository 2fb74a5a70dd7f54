"""What the local Hub knows: accounts, repositories, large files; and who may see what."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from tests.hub.exchange import Call, RefusedError, Request
from tests.hub.plans import Plans
from tests.hub.repository import Commit, Repository


@dataclass(frozen=True)
class Account:
    name: str
    role: str = "write"
    """Of the token: `write` or `read`."""
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organizations


@dataclass
class State:
    accounts: dict[str, Account]
    """By token."""
    page_size: int
    endpoint: str = ""
    storage: str = ""
    """The address of the large files: another origin than the Hub's, as the real one's storage is."""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by SHA-256."""
    uploads: Counter[str] = field(default_factory=Counter)
    calls: list[Call] = field(default_factory=list)
    plans: Plans = field(default_factory=Plans)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def account(self, request: Request) -> Account | None:
        """Whose token the request carries; none at all is None, an unknown one is refused."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.accounts:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.accounts[token]

    def repository(self, request: Request, type_: str, id_: str, write: bool = False) -> Repository:
        """A repository that this request may see, and with `write` change.

        The client takes any 401 under a repository's https address for an unknown repository; at a http address it
        needs the error code to do so.
        """
        account = self.account(request)
        found = self.repositories.get((type_, id_))
        if found is None or (found.private and not (account and account.owns(found.namespace))):
            if account is None:
                raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        if write and account is None:
            raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
        if write and account:
            self.may_write(account, found.namespace)
        return found

    def may_write(self, account: Account, namespace: str) -> None:
        if account.role != "write":
            raise RefusedError(403, "Forbidden: you must use a write token to upload to a repository.")
        if not account.owns(namespace):
            raise RefusedError(403, f'You don\'t have the rights to write under the namespace "{namespace}"')

    def may_read_files(self, request: Request, repository: Repository) -> None:
        """Whether a gated repository gives its files away; what is in it may be seen by all."""
        account = self.account(request)
        if not repository.gated or (account and account.owns(repository.namespace)):
            return
        about = f"Access to {repository.type} {repository.id} is restricted"
        if account is None:
            raise RefusedError(401, f"{about}. You must have access to it and be authenticated.", "GatedRepo")
        if account.name not in repository.let_in:
            raise RefusedError(403, f"{about} and you are not in the authorized list.", "GatedRepo")


def commit_at(repository: Repository, revision: str) -> Commit:
    commit = repository.find(revision)
    if commit is None:
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit
