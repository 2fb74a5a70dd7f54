"""Large files: which are large, which must be sent, and where they are kept."""

import base64
import hashlib
from fnmatch import fnmatch
from typing import Any

from tests.hub.exchange import Answer, RefusedError, Request, answer_json, unquoted
from tests.hub.repository import LFS_PATTERNS, Repository
from tests.hub.state import State, commit_at

REGULAR_LIMIT = 10_000_000
"""From this size on every file is a large one."""


def is_large(path: str, size: int, sample: bytes) -> bool:
    """By name, by size, or because it is no text."""
    return size >= REGULAR_LIMIT or b"\0" in sample or any(fnmatch(path, pattern) for pattern in LFS_PATTERNS)


def preupload(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    refuse_pull_requests(request)
    commit = commit_at(repository, unquoted(rest, "main"))

    def mode(wanted: dict[str, Any]) -> dict[str, Any]:
        path = wanted["path"]
        lfs = is_large(path, wanted["size"], base64.b64decode(wanted.get("sample", "")))
        there = commit.files.get(path)
        known = {"oid": there.etag} if there else {}
        return {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **known}

    return answer_json({"files": [mode(wanted) for wanted in request.json()["files"]], "commitOid": commit.id})


def refuse_pull_requests(request: Request) -> None:
    if request.flag("create_pr"):
        raise RefusedError(400, "This local Hub has no pull requests")


def batch(state: State, request: Request, repository: Repository) -> Answer:
    """Where to send large files; one that is already here needs no sending."""
    prefix = "" if repository.type == "model" else f"{repository.type}s/"
    verify_at = f"{state.endpoint}/{prefix}{repository.id}.git/info/lfs/objects/verify"

    def instruction(wanted: dict[str, Any]) -> dict[str, Any]:
        told = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] in state.objects:
            return told
        upload = {"href": f"{state.storage}/lfs/{wanted['oid']}"}
        return told | {"authenticated": True, "actions": {"upload": upload, "verify": {"href": verify_at}}}

    wanted = request.json()
    if wanted.get("operation") != "upload":
        raise RefusedError(400, "This local Hub takes large files in this way, and gives them by /resolve/ only")
    return answer_json({"transfer": "basic", "objects": [instruction(item) for item in wanted["objects"]]})


def store_object(state: State, request: Request, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise RefusedError(400, "XAmzContentSHA256Mismatch")
    state.objects[oid] = request.body
    return Answer(200, b"", {"ETag": f'"{oid}"'})


def verify(state: State, request: Request, repository: Repository) -> Answer:
    wanted = request.json()
    if len(state.objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise RefusedError(404, f"No such large file: {wanted['oid']}")
    return answer_json({})
