"""What changes a repository: commits, branches, tags, settings."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.hub.exchange import Answer, RefusedError, Request, answer_json, unquoted
from tests.hub.large_files import REGULAR_LIMIT, refuse_pull_requests
from tests.hub.repository import COMMIT_HASH, File, Repository
from tests.hub.state import State, commit_at


def commit(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    """One commit out of lines of JSON: a header first, then one operation a line."""
    refuse_pull_requests(request)
    branch = unquoted(rest, "main")
    header, *operations = lines(request)
    if branch not in repository.branches:
        raise RefusedError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    head = repository.branches[branch]
    expected = header["value"].get("parentCommit")
    if header["key"] != "header" or not header["value"].get("summary"):
        raise RefusedError(400, "a commit starts with a header that has a summary")
    if expected is not None and not head.startswith(expected):
        raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.history[head].files)
    for operation in operations:
        apply(state, files, operation["key"], operation["value"])
    account = state.account(request)
    made = repository.commit(
        branch,
        files,
        header["value"]["summary"],
        account.name if account else "",
        tuple((operation["key"], operation["value"]["path"]) for operation in operations),
        header["value"].get("description", ""),
    )
    prefix = "" if repository.type == "model" else f"{repository.type}s/"
    url = f"{state.endpoint}/{prefix}{repository.id}/commit/{made.id}"
    return answer_json({"success": True, "commitUrl": url, "commitOid": made.id, "hookOutput": ""})


def lines(request: Request) -> Iterator[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in request.body.splitlines() if line]
    except ValueError as error:
        raise RefusedError(400, f"the commit is no NDJSON: {error}") from None
    if not found:
        raise RefusedError(400, "the commit is empty")
    yield from found


def apply(state: State, files: dict[str, File], kind: str, value: dict[str, Any]) -> None:
    path = value["path"]
    if kind == "file":
        content = base64.b64decode(value["content"])
        if len(content) >= REGULAR_LIMIT:
            raise RefusedError(400, f"{path} is larger than 10 MB: it must be sent as a large file")
        files[path] = File(content)
    elif kind == "lfsFile":
        if value["oid"] not in state.objects:
            raise RefusedError(400, f"LFS pointer pointed to a file that does not exist: {path}")
        files[path] = File(state.objects[value["oid"]], lfs=True)
    elif kind == "deletedFile":
        if files.pop(path, None) is None:
            raise RefusedError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif kind == "deletedFolder":
        inside = [name for name in files if name.startswith(path.rstrip("/") + "/")]
        if not inside:
            raise RefusedError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
        for name in inside:
            del files[name]
    else:
        raise RefusedError(400, f"unknown operation in a commit: {kind}")


def create_branch(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    name = unquoted(rest)
    start = commit_at(repository, request.json().get("startingPoint") or "main")
    if name in repository.branches:
        raise RefusedError(409, f"Reference already exists: refs/heads/{name}")
    if not name or COMMIT_HASH.fullmatch(name):
        raise RefusedError(400, f"Invalid branch name: {name}")
    repository.branches[name] = start.id
    return answer_json({})


def delete_branch(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    name = unquoted(rest)
    if name == "main":
        raise RefusedError(403, "The main branch cannot be deleted")
    if repository.branches.pop(name, None) is None:
        raise RefusedError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return answer_json({})


def create_tag(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    name = request.json()["tag"]
    target = commit_at(repository, unquoted(rest, "main"))
    if name in repository.tags:
        raise RefusedError(409, f"Tag reference exists already: refs/tags/{name}")
    repository.tags[name] = target.id
    return answer_json({})


def settings(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    wanted = request.json()
    if "visibility" in wanted or "private" in wanted:
        repository.private = wanted.get("visibility") == "private" or wanted.get("private") is True
    repository.gated = wanted.get("gated", repository.gated)
    return answer_json({})
