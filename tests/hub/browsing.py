"""What is in a repository: its information, its tree, its branches and commits."""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.hub.cards import metadata
from tests.hub.exchange import Answer, RefusedError, Request, answer_json, unquoted
from tests.hub.repository import Commit, File, Repository
from tests.hub.state import State, commit_at


def information(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    """Of a model or a dataset, at a revision; with `expand` only what is named there."""
    commit = commit_at(repository, unquoted(rest, "main"))
    blobs = request.flag("blobs")
    card = card_data(commit)
    base = {"_id": f"id-of-{repository.id}", "id": repository.id}
    known: dict[str, Any] = {
        "author": repository.namespace,
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": next(iter(repository.history.values())).date,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [*(card or {}).get("tags", []), "region:us"],
        "siblings": [sibling(path, file, blobs) for path, file in sorted(commit.files.items())],
        "cardData": card,
        "usedStorage": sum(len(file.content) for file in commit.files.values()),
    }
    if repository.type == "model":
        base["modelId"] = repository.id
        known |= {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if card and key in card}
        known |= {"config": model_config(commit), "spaces": []}
    named = [*request.query.get("expand", []), *request.query.get("expand[]", [])]
    chosen = {key: value for key, value in known.items() if not named or key in named}
    return answer_json({**base, **{key: value for key, value in chosen.items() if value is not None}})


def card_data(commit: Commit) -> dict[str, Any] | None:
    readme = commit.files.get("README.md")
    try:
        found = metadata(readme.content.decode()) if readme else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return json.loads(json.dumps(found, default=str)) if isinstance(found, dict) else None


def model_config(commit: Commit) -> dict[str, Any] | None:
    try:
        found = json.loads(commit.files["config.json"].content)
    except (KeyError, ValueError):
        return None
    return {key: found[key] for key in ("architectures", "model_type") if key in found}


def large(file: File, name: str) -> dict[str, Any]:
    return {name: file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}


def sibling(path: str, file: File, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    entry = {"rfilename": path, "blobId": file.blob_id, "size": len(file.content)}
    return entry | ({"lfs": large(file, "sha256")} if file.lfs else {})


def entry(repository: Repository, commit: Commit, path: str, expand: bool) -> dict[str, Any] | None:
    """A line of a tree listing for a file or a folder; None where neither is."""
    file = commit.files.get(path)
    if file is not None:
        found = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id}
        found |= {"lfs": large(file, "oid")} if file.lfs else {}
    elif any(name.startswith(f"{path}/") for name in commit.files):
        inside = "".join(file.blob_id for name, file in sorted(commit.files.items()) if name.startswith(f"{path}/"))
        found = {"type": "directory", "path": path, "size": 0, "oid": File(inside.encode()).blob_id}
    else:
        return None
    if expand:
        last = repository.last_change(commit, path)
        found["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
    return found


def list_tree(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    revision, _, folder = rest.partition("/")
    commit = commit_at(repository, unquoted(revision, "main"))
    prefix = f"{unquoted(folder).strip('/')}/" if folder else ""
    names = sorted(set(below(commit, prefix, request.flag("recursive"))))
    if folder and not names:
        raise RefusedError(404, f'"{prefix[:-1]}" does not exist on "{unquoted(revision)}"', "EntryNotFound")
    lines = [entry(repository, commit, name, request.flag("expand")) for name in names]
    return page(state, request, lines)


def below(commit: Commit, prefix: str, recursive: bool) -> Iterator[str]:
    for path in commit.files:
        if not path.startswith(prefix):
            continue
        steps = path.removeprefix(prefix).split("/")
        depth = len(steps) if recursive else 1
        yield from (prefix + "/".join(steps[: number + 1]) for number in range(depth))


def page(state: State, request: Request, lines: Sequence[Any]) -> Answer:
    """The part of a listing that starts at the request's cursor; a Link header names the next."""
    start = int(request.query.get("cursor", ["0"])[0])
    stop = start + state.page_size
    headers = {}
    if stop < len(lines):
        query = urlencode({**request.query, "cursor": [str(stop)]}, doseq=True)
        headers["Link"] = f'<{state.endpoint}{request.path}?{query}>; rel="next"'
    return answer_json(lines[start:stop], headers=headers)


def paths_information(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    commit = commit_at(repository, unquoted(rest, "main"))
    form = request.form()
    expand = form.get("expand", ["false"])[0].lower() == "true"
    lines = (entry(repository, commit, path.strip("/"), expand) for path in form.get("paths", []))
    return answer_json([line for line in lines if line])


def references(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    def named(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": id_} for name, id_ in names.items()]

    return answer_json(
        {
            "branches": named("heads", repository.branches),
            "tags": named("tags", repository.tags),
            "converts": [],
            "pullRequests": [],
        }
    )


def commits(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    """Newest first."""
    lines = [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.description,
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        for commit in repository.log(commit_at(repository, unquoted(rest, "main")))
    ]
    return page(state, request, lines)
