"""Files of a repository at a revision."""

from urllib.parse import quote

from tests.hub.exchange import Answer, RefusedError, Request, unquoted
from tests.hub.repository import Repository
from tests.hub.state import State, commit_at


def resolve(state: State, request: Request, repository: Repository, rest: str) -> Answer:
    """A file itself, or for a large one the way to the storage."""
    revision, _, path = rest.partition("/")
    state.may_read_files(request, repository)
    commit = commit_at(repository, unquoted(revision))
    name = unquoted(path)
    file = commit.files.get(name)
    named = {"X-Repo-Commit": commit.id}
    if file is None:
        raise RefusedError(404, "Entry not found", "EntryNotFound", named)
    if not file.lfs:
        kept = {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes", "Content-Type": "text/plain; charset=utf-8"}
        return Answer(200, file.content, named | kept | disposition(name))
    linked = {
        "Location": f"{state.storage}/lfs/{file.sha256}?Signature=of-the-storage",
        "X-Linked-Size": str(len(file.content)),
        "X-Linked-ETag": f'"{file.sha256}"',
    }
    return Answer(302, b"Found. Redirecting", named | linked)


def disposition(path: str) -> dict[str, str]:
    return {"Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1])}"}


def read_object(state: State, oid: str) -> Answer:
    if oid not in state.objects:
        raise RefusedError(404, "NoSuchKey")
    kept = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    return Answer(200, state.objects[oid], kept)
