"""Why the Hub did not give or take something, in words that say what to do. Tokens are never in them."""

from collections.abc import Iterator

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

HubError = HTTPError
"""What huggingface_hub raises for all that goes wrong on the way; not all of it is an `OSError`."""
LOG_IN = "set HF_TOKEN to a token of https://huggingface.co/settings/tokens, or run `hf auth login`"
NOT_CACHED = "it is not in the cache, and the Hub {why}; fetch it once with the network, or give a folder"
GATED = f"the repository is gated: ask for access on its page, and {LOG_IN}"
OFFLINE = NOT_CACHED.format(why="is not asked, since HF_HUB_OFFLINE is set")


def hub_reason(error: BaseException, *, writing: bool = False) -> str | None:
    """What the Hub or its client says behind an error of transformers, `datasets` or huggingface_hub.

    Args:
        error: as it was raised; the errors that it was raised from are looked at too.
        writing: whether something was to be published, which no cache can stand in for.

    Returns:
        What was found and what to do, or None if it has nothing to do with the Hub.
    """
    chain = list(causes(error))
    if writing and any(isinstance(one, UnicodeEncodeError) for one in chain):
        return _refused_token()
    if writing and any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE is set, and nothing can be published without the Hub; unset it"
    for kinds, reason in _REASONS:
        if any(isinstance(one, kinds) for one in chain):
            return reason if isinstance(reason, str) else without_token(reason())
    for one in chain:
        if isinstance(one, HfHubHTTPError) and one.response is not None:
            return without_token(_by_status(one))
    if any(isinstance(one, (HubError, LocalEntryNotFoundError)) for one in chain):
        if writing:
            return "the Hub cannot be reached; look at the network and at HF_ENDPOINT"
        return OFFLINE if constants.HF_HUB_OFFLINE else NOT_CACHED.format(why="cannot be reached")
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _refused_token() -> str:
    return f"the Hub refuses the token (HF_TOKEN, or that of `hf auth login`): {LOG_IN}"


def not_found() -> str:
    """What to do about a repository that the Hub does not show."""
    if get_token() is None:
        return f"the Hub has no such repository, or it is private: check the name, or {LOG_IN}"
    return "the Hub has no such repository, or the token gives no access to it: check the name, and whose token it is"


_REASONS = (
    (OfflineModeIsEnabled, OFFLINE),
    (GatedRepoError, GATED),
    (RevisionNotFoundError, "the repository has no such revision; give a branch, a tag or a commit of it"),
    (LocalTokenNotFoundError, f"there is no token: {LOG_IN}"),
    (HFValidationError, "not the name of a repository; write user/name"),
)


def _by_status(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = f" ({error.server_message})" if error.server_message else ""
    if status == 401 and "credential" in (error.server_message or "").lower():
        return _refused_token()
    if isinstance(error, RepositoryNotFoundError):
        return not_found()
    if isinstance(error, EntryNotFoundError):
        return f"the repository has no such file{said}"
    if status == 401:
        return _refused_token()
    if status == 403:
        return f"the token may not do this{said}; take one with write access to the repository, or name one of yours"
    if status in (409, 412):
        return f"the repository was changed by somebody else meanwhile{said}; look at it and try again"
    if status == 429:
        return f"the Hub answers that it was asked too often{said}; wait and try again"
    return f"the Hub answers {status}{said}" + ("; try again later" if status >= 500 else "")


def without_token(text: str) -> str:
    """The text without the token of this machine, whatever else it says."""
    token = get_token()
    return text.replace(token, "***") if token else text
