"""Faults that the local Hub makes on order, and what the real client makes of them."""

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError

from tests.hub.server import LocalHub

WEIGHTS = bytes(range(256)) * 50_000
OID = hashlib.sha256(WEIGHTS).hexdigest()
CHUNK = 10 * 1024 * 1024
"""What the client keeps of a download that ends: whole pieces of this size."""


CONNECTION_ENDED = "disconnected|reset by peer|Broken pipe"
"""In words: the error's class comes from httpx or httpx2, by the client's version."""


@pytest.fixture
def api(local_hub: LocalHub) -> HfApi:
    local_hub.add("someone/model", {"config.json": b'{"a": 1}', "old.txt": b"old"})
    return HfApi(endpoint=local_hub.endpoint, token=local_hub.token)


def push(api: HfApi, content: bytes = WEIGHTS) -> str:
    operations = [CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n")]
    operations.append(CommitOperationAdd("model.safetensors", content))
    return api.create_commit("someone/model", operations, commit_message="Push").oid


def statuses(hub: LocalHub, method: str, part: str) -> list[int]:
    return [call.status for call in hub.requests if call.method == method and part in call.path]


def test_an_answer_ordered_comes_as_often_as_it_was_ordered(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.fail("GET", "whoami", 2, 503, {"X-Error-Message": "Sleeping"}, b'{"error": "very deeply"}')
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match=r"Sleeping\nvery deeply") as failure:
            api.whoami()
        assert failure.value.response.status_code == 503
    assert api.whoami()["name"] == "someone"
    assert statuses(local_hub, "GET", "whoami") == [503, 503, 200]


def test_orders_are_served_in_turn_and_only_to_their_calls(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.fail("POST", r"/commit/main$", 1, 409)
    local_hub.fail("POST", r"/commit/", 1, 403, {"X-Error-Message": "Not you"})
    for message in ("409 Conflict", "Not you"):
        with pytest.raises(HfHubHTTPError, match=message):
            push(api)
    assert push(api) == local_hub.commits("someone/model")[0].id
    assert statuses(local_hub, "POST", "/commit/") == [409, 403, 200]
    assert local_hub.uploads == {OID: len(WEIGHTS)}  # what had come before the refusal was kept


def test_an_upload_refused_twice_is_sent_a_third_time(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.fail("PUT", "/lfs/", 2, 500)
    push(api)
    assert statuses(local_hub, "PUT", "/lfs/") == [500, 500, 200]
    assert local_hub.uploads == {OID: 3 * len(WEIGHTS)}


def test_the_client_waits_as_long_as_it_is_told(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.fail("POST", "/preupload/", 1, 429, {"Retry-After": "0"})
    push(api)
    assert statuses(local_hub, "POST", "/preupload/") == [429, 200]


def test_an_upload_cut_in_the_middle_starts_anew(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.cut("PUT", "/lfs/", 1, after_bytes=100_000)
    push(api)
    assert statuses(local_hub, "PUT", "/lfs/") == [0, 200]
    assert local_hub.uploads == {OID: 100_000 + len(WEIGHTS)}
    assert local_hub.files("someone/model")["model.safetensors"] == WEIGHTS


def test_a_commit_cut_in_the_middle_is_not_made(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.cut("POST", "/commit/", 1, after_bytes=10)
    with pytest.raises(HTTPError, match=CONNECTION_ENDED):
        push(api)
    assert [commit.title for commit in local_hub.commits("someone/model")] == ["Add files", "initial commit"]
    push(api)
    assert local_hub.uploads == {OID: len(WEIGHTS)}


def test_a_commit_whose_answer_is_lost_was_made(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.lose("POST", "/commit/")
    with pytest.raises(HTTPError, match=CONNECTION_ENDED):
        push(api)
    made = local_hub.commits("someone/model")[0]
    assert made.title == "Push"
    assert push(api) == made.id  # nothing has changed: no second commit
    assert statuses(local_hub, "POST", "/commit/") == [0]
    local_hub.lose("POST", "/commit/")
    deletion = {"operations": [CommitOperationDelete("old.txt")], "commit_message": "Less"}
    with pytest.raises(HTTPError, match=CONNECTION_ENDED):
        api.create_commit("someone/model", **deletion)
    with pytest.raises(EntryNotFoundError):  # a deletion is not passed over when it was made before
        api.create_commit("someone/model", **deletion)


def test_a_download_cut_in_the_middle_goes_on_where_it_ended(local_hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    push(api)
    local_hub.cut("GET", "/lfs/", 1, after_bytes=len(WEIGHTS) - 1000)
    got = hf_hub_download("someone/model", "model.safetensors", endpoint=local_hub.endpoint, cache_dir=tmp_path)
    assert Path(got).read_bytes() == WEIGHTS
    calls = [call for call in local_hub.requests if call.method == "GET" and "/lfs/" in call.path]
    assert [(call.status, call.headers.get("range")) for call in calls] == [(200, None), (206, f"bytes={CHUNK}-")]


def test_a_connection_can_end_with_a_reset(local_hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    place = {"endpoint": local_hub.endpoint, "cache_dir": tmp_path}
    local_hub.cut("GET", "/resolve/", 1, after_bytes=3, reset=True)
    with pytest.raises(HTTPError, match="Connection reset by peer"):
        hf_hub_download("someone/model", "config.json", **place)
    assert Path(hf_hub_download("someone/model", "config.json", **place)).read_bytes() == b'{"a": 1}'


def test_a_hub_that_has_gone_cannot_be_reached(local_hub: LocalHub, api: HfApi) -> None:
    api.whoami()
    local_hub.stop()
    with pytest.raises(HTTPError, match=f"Connection refused|{CONNECTION_ENDED}"):
        api.whoami()
    assert local_hub.files("someone/model")["config.json"] == b'{"a": 1}'
