"""Which call goes where."""

import re
from collections.abc import Callable

from tests.hub.accounts import create_repository, delete_repository, validate_yaml, whoami
from tests.hub.browsing import commits, information, list_tree, paths_information, references
from tests.hub.changes import commit, create_branch, create_tag, delete_branch, settings
from tests.hub.downloads import read_object, resolve
from tests.hub.exchange import Answer, RefusedError, Request, answer_json
from tests.hub.large_files import batch, preupload, store_object, verify
from tests.hub.repository import Repository
from tests.hub.state import State

RepositoryRoute = Callable[[State, Request, Repository, str], Answer]
"""The text is what follows the route's name in the path, percent signs and all."""

ACCOUNT_ROUTES: dict[tuple[str, str], Callable[[State, Request], Answer]] = {
    ("GET", "/api/whoami-v2"): whoami,
    ("POST", "/api/repos/create"): create_repository,
    ("DELETE", "/api/repos/delete"): delete_repository,
    ("POST", "/api/validate-yaml"): validate_yaml,
}
READING: dict[tuple[str, str], RepositoryRoute] = {
    ("GET", ""): information,
    ("GET", "revision"): information,
    ("GET", "tree"): list_tree,
    ("POST", "paths-info"): paths_information,
    ("GET", "refs"): references,
    ("GET", "commits"): commits,
    ("GET", "auth-check"): lambda state, request, repository, rest: checked(state, request, repository),
}
WRITING: dict[tuple[str, str], RepositoryRoute] = {
    ("POST", "preupload"): preupload,
    ("POST", "commit"): commit,
    ("POST", "branch"): create_branch,
    ("DELETE", "branch"): delete_branch,
    ("POST", "tag"): create_tag,
    ("PUT", "settings"): settings,
}
NAME = r"(?P<id>[\w.-]+(?:/[\w.-]+)?)"
API = re.compile(rf"/api/(?P<type>model|dataset|space)s/{NAME}(?:/(?P<rest>.*))?")
LARGE = re.compile(rf"/(?:(?P<type>dataset|space)s/)?{NAME}\.git/info/lfs/objects/(?P<rest>batch|verify)")
RESOLVE = re.compile(rf"/(?:(?P<type>dataset|space)s/)?{NAME}/resolve/(?P<rest>.+)")


def route(state: State, request: Request, storage: bool) -> Answer:
    if storage:
        return at_the_storage(state, request)
    if known := ACCOUNT_ROUTES.get((request.method, request.path)):
        return known(state, request)
    if found := API.fullmatch(request.path):
        action, _, rest = (found["rest"] or "").partition("/")
        return in_a_repository(state, request, (found["type"], found["id"]), action, rest)
    if (found := LARGE.fullmatch(request.path)) and request.method == "POST":
        repository = state.repository(request, found["type"] or "model", found["id"], write=True)
        return (batch if found["rest"] == "batch" else verify)(state, request, repository)
    if (found := RESOLVE.fullmatch(request.path)) and request.method in ("GET", "HEAD"):
        repository = state.repository(request, found["type"] or "model", found["id"])
        return resolve(state, request, repository, found["rest"])
    raise RefusedError(404, f"Nothing is here: {request.method} {request.path}")


def in_a_repository(state: State, request: Request, name: tuple[str, str], action: str, rest: str) -> Answer:
    key = (request.method, action)
    known = READING.get(key) or WRITING.get(key)
    repository = state.repository(request, *name, write=key in WRITING)
    if known is None:
        raise RefusedError(404, f"Nothing is here: {request.method} {request.path}")
    return known(state, request, repository, rest)


def at_the_storage(state: State, request: Request) -> Answer:
    found = re.fullmatch(r"/lfs/([0-9a-f]{64})", request.path)
    if "authorization" in request.headers:  # as the real storage does: its addresses are signed
        raise RefusedError(400, "Only one auth mechanism allowed")
    if found and request.method == "PUT":
        return store_object(state, request, found[1])
    if found and request.method in ("GET", "HEAD"):
        return read_object(state, found[1])
    raise RefusedError(404, "NoSuchKey")


def checked(state: State, request: Request, repository: Repository) -> Answer:
    state.may_read_files(request, repository)
    return answer_json({})
