"""Pushes that go wrong: a retry that succeeds, or one message; never half a commit, and never the token."""

from pathlib import Path

import pytest

import hf_mtl.hub.push
from hf_mtl.errors import UserError
from hf_mtl.hub.push import push_model
from hf_mtl.modeling.model import MultiTaskModel
from tests.hub.published import calls, command, said, trained
from tests.hub.server import LocalHub

OTHERS_TOKEN = "hf_" + "anotherTokenOfTests" * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_mtl.hub.push, "FIRST_WAIT", 0.01)


def refusal(model: Path, hub: LocalHub, **options: str) -> str:
    with pytest.raises(UserError) as refused:
        push_model(model, options.pop("repository", "someone/triage"), **options)
    assert hub.token not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "whoami"),
        ("POST", "/api/repos/create"),
        ("GET", "/tree/main"),
        ("POST", "validate-yaml"),
        ("POST", "/preupload/main"),
        ("PUT", "/lfs/"),
        ("POST", "/commit/main"),
    ],
)
@pytest.mark.parametrize("fault", ["500 twice", "cut"])
def test_after_a_passing_fault_of_any_call_all_of_it_is_there_in_one_commit(
    model: Path, local_hub: LocalHub, method: str, path: str, fault: str
) -> None:
    if fault == "cut":
        local_hub.cut(method, path, 1, after_bytes=0)
    else:
        local_hub.fail(method, path, 2, 500)
    push_model(model, "someone/triage")
    assert calls(local_hub, method, path) > 1
    assert len(local_hub.commits("someone/triage")) == 2
    assert "model.safetensors" in local_hub.files("someone/triage")


def test_an_upload_cut_in_the_middle_is_sent_again(model: Path, local_hub: LocalHub) -> None:
    local_hub.cut("PUT", "/lfs/", 1, after_bytes=10_000)
    push_model(model, "someone/triage")
    assert local_hub.files("someone/triage")["model.safetensors"] == (model / "model.safetensors").read_bytes()


def test_a_commit_whose_answer_is_lost_is_not_made_twice(model: Path, local_hub: LocalHub) -> None:
    local_hub.lose("POST", "/commit/main")
    push_model(model, "someone/triage")
    assert len(local_hub.commits("someone/triage")) == 2


@pytest.mark.parametrize("status", [409, 412, 429])
def test_a_commit_that_collides_or_comes_too_soon_is_tried_again(model: Path, local_hub: LocalHub, status: int) -> None:
    local_hub.fail("POST", "/commit/main", 1, status, {"Retry-After": "0"})
    push_model(model, "someone/triage")
    assert len(local_hub.commits("someone/triage")) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refuses the token"),
        (403, "take one with write access"),
        (409, "changed by somebody else"),
        (429, "asked too often"),
        (500, "the Hub answers 500"),
    ],
)
def test_a_commit_that_fails_for_good_is_one_message_and_changes_nothing(
    model: Path, local_hub: LocalHub, status: int, words: str
) -> None:
    local_hub.add("someone/triage", {"config.json": b"{}"})
    before = local_hub.files("someone/triage")
    local_hub.fail("POST", "/commit/main", 9, status, {"Retry-After": "0"})
    assert words in refusal(model, local_hub)
    assert local_hub.files("someone/triage") == before


def test_a_hub_that_cannot_be_reached_is_one_message(model: Path, local_hub: LocalHub) -> None:
    local_hub.stop()
    assert "the Hub cannot be reached; look at the network and at HF_ENDPOINT" in refusal(model, local_hub)


def test_offline_nothing_is_published(model: Path, local_hub: LocalHub, tmp_path: Path) -> None:
    done = command(local_hub, tmp_path, "push", str(model), "someone/x", variables={"HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE is set, and nothing can be published without the Hub; unset it" in said(done)


def test_tokens_that_do_not_do_are_named_before_anything_is_sent(
    model: Path, local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.add_account("somebody", OTHERS_TOKEN, role="read")
    local_hub.add("someone/theirs", {"config.json": b"{}"})
    monkeypatch.setenv("HF_TOKEN", OTHERS_TOKEN)
    for repository in ("someone/theirs", "somebody/mine"):
        message = refusal(model, local_hub, repository=repository)
        assert "write access" in message, message
        assert OTHERS_TOKEN not in message
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "refuses the token" in refusal(model, local_hub)
    monkeypatch.setenv("HF_TOKEN", "hf_bad\x01token")
    assert "bad" not in refusal(model, local_hub)
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token: set HF_TOKEN" in refusal(model, local_hub)
    assert sum(local_hub.uploads.values()) == 0


@pytest.mark.parametrize("name", ["a/b/c", "some one/x", "-x/y", "someone/x.git", ""])
def test_a_name_that_no_repository_can_have_is_refused(model: Path, local_hub: LocalHub, name: str) -> None:
    assert "is not the name of a repository; write user/name" in refusal(model, local_hub, repository=name)
    assert local_hub.requests == []


def test_a_folder_that_is_no_model_or_half_of_one_is_refused_by_what_it_lacks(
    model: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "config.json").write_text('{"model_type": "bert"}')
    half = tmp_path / "half"
    half.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (half / name).write_bytes((model / name).read_bytes())
    for folder, words in (
        (tmp_path / "none", "there is no such folder"),
        (tmp_path / "empty", "there is no config.json"),
        (tmp_path / "stock", "of a bert model, not of a multi-task model"),
        (half, "half a model: model.safetensors missing"),
    ):
        assert words in refusal(folder, local_hub)
    assert said(command(local_hub, home, "push", str(half), "someone/x")).startswith(str(half))


def test_adapters_only_is_refused_where_the_encoder_is_the_models_own(model: Path, local_hub: LocalHub) -> None:
    with pytest.raises(UserError, match="--adapters-only: it has no adapters"):
        push_model(model, "someone/triage", adapters_only=True)
    assert local_hub.requests == []


def test_adapters_on_a_folder_of_this_machine_are_not_published(local_hub: LocalHub, tmp_path: Path) -> None:
    out = trained(tmp_path, lora={"scope": "shared", "r": 2})
    message = refusal(out, local_hub)
    assert "nobody else has" in message
    assert str(tmp_path) not in message.partition(": ")[2]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (("GET", "/resolve/", 401), "no such repository|refuses the token"),
        (("GET", "/resolve/", 500), "answers 500|cannot be reached"),
    ],
)
def test_a_download_that_fails_is_one_message(
    model: Path, local_hub: LocalHub, order: tuple[str, str, int], words: str
) -> None:
    push_model(model, "someone/triage")
    local_hub.fail(order[0], order[1], 50, order[2])
    local_hub.fail("HEAD", order[1], 50, order[2])
    with pytest.raises(UserError, match=words):
        MultiTaskModel.from_pretrained("someone/triage")


def test_gated_and_private_repositories_say_what_to_do(
    model: Path, local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {file.name: file.read_bytes() for file in model.iterdir() if file.is_file()}
    local_hub.add("other/gated", files, gated=True)
    local_hub.add("other/private", files, private=True)
    with pytest.raises(UserError, match="gated: ask for access on its page"):
        MultiTaskModel.from_pretrained("other/gated")
    with pytest.raises(UserError, match="no such repository, or the token gives no access"):
        MultiTaskModel.from_pretrained("other/private")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="or it is private: check the name, or set HF_TOKEN"):
        MultiTaskModel.from_pretrained("other/private")
