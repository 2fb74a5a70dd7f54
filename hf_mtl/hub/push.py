"""Publishing on the Hub: one commit with all of it, or none."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_mtl.errors import UserError
from hf_mtl.hub.card import card_text, read_card
from hf_mtl.hub.contents import CARD, Contents, read_contents
from hf_mtl.hub.publication import Publication, check_base, publication
from hf_mtl.hub_errors import HubError, causes, hub_reason, without_token
from hf_mtl.inference.export import export_task

TRIES = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds; each wait is twice the one before. The Hub's Retry-After is followed up to that."""
PASSING = {409, 412, 429, 500, 502, 503, 504}
"""Answers after which the same call may succeed: two commits at once, too many calls, a fault of the Hub."""
Result = TypeVar("Result")


def push_model(
    folder: Path,
    repository: str,
    *,
    private: bool | None = None,
    adapters_only: bool = False,
    per_task: bool = False,
    revision: str | None = None,
    message: str = "Upload multi-task model",
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Publishes a model's folder; each repository gets it in a single commit.

    Args:
        folder: the model's.
        repository: user/name, or a name of one's own; made if it is not there.
        private: whether a repository that is made is private; None for the account's usual way.
        adapters_only: whether the model is refused if its encoder is a part of it.
        per_task: whether each task is published too, as the ordinary checkpoint user/name-task.
        revision: the branch; made if it is not there.
        message: of the commit.
        say: told what was done, a line each.

    Returns:
        The addresses of the commits.

    Raises:
        UserError: if there is no model, name, token or right to write, or the Hub cannot be reached.
    """
    contents = read_contents(folder)
    names = [spec.name for spec in contents.tasks] if per_task else []
    check_name(repository)
    for name in names:
        check_name(f"{repository}-{name}", f"task {name}: ")
    check_base(contents, adapters_only=adapters_only)
    hub = Repository.open(repository, private=private, revision=revision)
    files = publication(contents, hub.id, hub.card())
    commits = [hub.commit(files, message)]
    say(f"{folder} is on the Hub: {commits[-1]}")
    if CARD not in files.files:
        say(f"{hub.id}: its card was changed there and is kept; delete it there to have it written anew")
    for name in names:
        # A private model's tasks are no more public than the model.
        own = Repository.open(f"{hub.id}-{name}", private=hub.private, revision=revision)
        with TemporaryDirectory() as made:
            commits.append(own.commit(_task_publication(contents, name, own.id, Path(made, name)), message))
        say(f"task {name} is on the Hub: {commits[-1]}")
    return commits


def _task_publication(contents: Contents, task: str, repository: str, folder: Path) -> Publication:
    export_task(contents.folder, task, folder)
    files: dict[str, bytes | Path] = {file.name: file for file in sorted(folder.iterdir())}
    return Publication(files | {CARD: card_text(contents, repository, task).encode()})


def check_name(repository: str, where: str = "") -> None:
    """Looks whether a name can be a repository's.

    Raises:
        UserError: if it cannot.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{where}{repository!r} is not the name of a repository; write user/name ({said})") from None


class Repository:
    """A model repository that can be written to.

    Args:
        id: user/name.
        private: whether it is one that only some can read.
        revision: the branch; None for main.
    """

    def __init__(self, id: str, private: bool, revision: str | None = None) -> None:
        self.id, self.private, self.revision = id, private, revision
        self.api = HfApi()

    @classmethod
    def open(cls, name: str, *, private: bool | None = None, revision: str | None = None) -> "Repository":
        """A repository of this name, made if it is not there.

        Raises:
            UserError: if it cannot be made or written to.
        """
        check_name(name)
        if revision is not None and not revision.strip():
            raise UserError("--revision is empty; give the name of a branch, or leave it out for main")
        api = HfApi()
        # Without this a token that is refused shows only once everything is read and hashed.
        user = asking(name, api.whoami)["name"]
        full = name if "/" in name else f"{user}/{name}"
        made = asking(full, lambda: api.create_repo(full, private=private, exist_ok=True))
        is_private = bool(asking(full, lambda: api.repo_info(made.repo_id)).private)
        if private and not is_private:
            raise UserError(
                f"{made.repo_id} is there already, for everybody to read; make it private in its settings first, or "
                "give another name"
            )
        if revision is not None:
            asking(full, lambda: api.create_branch(made.repo_id, branch=revision, exist_ok=True))
        return cls(made.repo_id, is_private, revision)

    def card(self) -> str:
        """The card that is there; nothing if there is none."""

        def read() -> str:
            if not self.api.file_exists(self.id, CARD, revision=self.revision):
                return ""
            return read_card(Path(self.api.hf_hub_download(self.id, CARD, revision=self.revision)))

        return asking(self.id, read)

    def commit(self, files: Publication, message: str, delete: Sequence[str] = ()) -> str:
        """Puts files into the repository, and takes out weights of an earlier model, in one commit.

        Large files that the Hub has already are not sent again. If the connection breaks, the whole is tried again:
        either all of it is there in the end, or nothing of it.

        Args:
            files: to put there.
            message: of the commit.
            delete: folders to empty first; each ends with a slash.

        Returns:
            The commit's address.

        Raises:
            UserError: if the Hub does not take it.
        """

        def attempt() -> str:
            present = self.api.list_repo_files(self.id, revision=self.revision)
            old = [name for name in present if name.startswith(tuple(delete)) and name not in files.files]
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.files.items()
            ]
            operations += [CommitOperationDelete(path_in_repo=name) for name in sorted({*files.stale(present), *old})]
            made = self.api.create_commit(self.id, operations, commit_message=message, revision=self.revision)
            return str(made.commit_url)

        return asking(self.id, attempt)


def asking(repository: str, call: Callable[[], Result]) -> Result:
    """What a call of the Hub gives, tried again where the connection broke or the Hub says that it will pass.

    Raises:
        UserError: if it fails for good.
    """
    for number in range(TRIES):
        try:
            return call()
        except (HubError, OSError, ValueError, RuntimeError) as error:
            if number + 1 == TRIES or not _passes(error):
                raise UserError(f"{repository}: {_reason(error)}") from error
            time.sleep(_wait(error, number))
    raise AssertionError("the last try returns or raises")


def _passes(error: Exception) -> bool:
    """Whether the same call may succeed later. huggingface_hub itself tries again only where it uploads."""
    answer = _answer(error)
    if answer is not None:
        return answer.response.status_code in PASSING
    # The check of a card reads every answer as JSON, that of a broken proxy too.
    return isinstance(error, json.JSONDecodeError) or any(isinstance(one, HubError) for one in causes(error))


def _answer(error: Exception) -> HfHubHTTPError | None:
    return next((one for one in causes(error) if isinstance(one, HfHubHTTPError)), None)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "what answers is not the Hub, or the Hub is out of order; look at HF_ENDPOINT and try again later"
    return hub_reason(error, writing=True) or without_token(" ".join(str(error).split()))


def _wait(error: Exception, number: int) -> float:
    """Seconds to wait before the next try."""
    answer = _answer(error)
    said = answer.response.headers.get("Retry-After", "") if answer is not None else ""
    return min(float(said) if said.isdecimal() else FIRST_WAIT * 2**number, LONGEST_WAIT)
