"""The local Hub as the real client sees it: nothing of `huggingface_hub` is replaced here."""

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.repository import GITATTRIBUTES, File
from tests.hub.server import LocalHub

CARD = b"---\nlicense: mit\ntags: [tiny]\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 50_000
"""12.8 MB: more than git itself would take."""
OTHERS = "hf_" + "ofSomebodyElse" * 2


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def read(folder: str | Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def called(hub: LocalHub) -> list[tuple[str, str]]:
    return [(call.method, call.path) for call in hub.requests]


@pytest.fixture
def api(local_hub: LocalHub) -> HfApi:
    return HfApi(endpoint=local_hub.endpoint, token=local_hub.token)


@pytest.fixture
def pushed(local_hub: LocalHub, api: HfApi) -> str:
    """The commit of a repository with a card, a text in a folder, and weights."""
    api.create_repo("someone/model")
    operations = [add("README.md", CARD), add("tasks/topic/labels.json", b"[]"), add("model.safetensors", WEIGHTS)]
    return api.create_commit("someone/model", operations, commit_message="First", commit_description="Why").oid


def test_a_repository_is_created_once(local_hub: LocalHub, api: HfApi) -> None:
    made = api.create_repo("someone/model", private=True)
    assert (made.repo_id, made.repo_type, str(made)) == (
        "someone/model",
        "model",
        f"{local_hub.endpoint}/someone/model",
    )
    assert api.create_repo("data", repo_type="dataset").repo_id == "someone/data"  # the namespace is the account's
    with pytest.raises(HfHubHTTPError, match="already created this model repo") as failure:
        api.create_repo("someone/model")
    assert failure.value.response.status_code == 409
    assert api.create_repo("someone/model", private=False, exist_ok=True) == made
    assert local_hub.repositories() == [("model", "someone/model", True), ("dataset", "someone/data", False)]
    assert local_hub.files("someone/model") == {".gitattributes": GITATTRIBUTES}
    assert [commit.title for commit in local_hub.commits("someone/model")] == ["initial commit"]
    api.delete_repo("someone/model")
    assert not api.repo_exists("someone/model")


def test_one_commit_brings_small_and_large_files(local_hub: LocalHub, api: HfApi, pushed: str) -> None:
    first, initial = local_hub.commits("someone/model")
    assert (first.id, first.title, first.description, first.author) == (pushed, "First", "Why", "someone")
    assert (first.parent, initial.parent) == (initial.id, None)
    assert first.operations == (
        ("file", "README.md"),
        ("file", "tasks/topic/labels.json"),
        ("lfsFile", "model.safetensors"),
    )
    assert local_hub.files("someone/model") == {
        ".gitattributes": GITATTRIBUTES,
        "README.md": CARD,
        "tasks/topic/labels.json": b"[]",
        "model.safetensors": WEIGHTS,
    }
    assert local_hub.uploads == {File(WEIGHTS).sha256: len(WEIGHTS)}
    text = api.create_commit("someone/model", [add("long.txt", b"word " * 2_100_000)], commit_message="By size")
    assert local_hub.commits("someone/model", revision=text.oid)[0].operations == (("lfsFile", "long.txt"),)
    binary = api.create_commit("someone/model", [add("noname", b"\x00\x01")], commit_message="By content")
    assert local_hub.commits("someone/model", revision=binary.oid)[0].operations == (("lfsFile", "noname"),)


def test_what_has_not_changed_is_not_sent_again(local_hub: LocalHub, api: HfApi, pushed: str) -> None:
    before = local_hub.uploads
    operations = [add("README.md", CARD + b"More.\n"), add("model.safetensors", WEIGHTS)]
    second = api.create_commit("someone/model", operations, commit_message="Second")
    assert local_hub.uploads == before
    assert local_hub.commits("someone/model")[0].operations == (("file", "README.md"),)
    api.create_commit("someone/model", [add("copy.safetensors", WEIGHTS)], commit_message="A second name")
    assert local_hub.uploads == before
    assert local_hub.files("someone/model")["copy.safetensors"] == WEIGHTS
    head = local_hub.commits("someone/model")[0].id
    same = [add("README.md", CARD + b"More.\n"), add("model.safetensors", WEIGHTS)]
    assert api.create_commit("someone/model", same, commit_message="Third").oid == head != second.oid


def test_files_and_folders_are_deleted(local_hub: LocalHub, api: HfApi, pushed: str) -> None:
    gone = [CommitOperationDelete("README.md"), CommitOperationDelete("tasks/")]
    api.create_commit("someone/model", gone, commit_message="Less")
    assert set(local_hub.files("someone/model")) == {".gitattributes", "model.safetensors"}
    assert "README.md" in local_hub.files("someone/model", revision=pushed)
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        api.create_commit("someone/model", [CommitOperationDelete("README.md")], commit_message="Again")


def test_a_commit_on_an_older_state_is_refused(local_hub: LocalHub, api: HfApi, pushed: str) -> None:
    late = [add("a.txt", b"a")]
    newer = api.create_commit("someone/model", late, commit_message="A", parent_commit=pushed)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as failure:
        api.create_commit("someone/model", [add("b.txt", b"b")], commit_message="B", parent_commit=pushed)
    assert failure.value.response.status_code == 412
    assert local_hub.commits("someone/model")[0].id == newer.oid
    with pytest.raises(RevisionNotFoundError):
        api.create_commit("someone/model", [add("b.txt", b"b")], commit_message="B", revision="nowhere")


def test_branches_and_tags_name_commits(local_hub: LocalHub, api: HfApi, pushed: str, tmp_path: Path) -> None:
    api.create_branch("someone/model", branch="refs-with/slash", revision=pushed)
    api.create_tag("someone/model", tag="v1", revision=pushed)
    with pytest.raises(HfHubHTTPError, match="already exists"):
        api.create_branch("someone/model", branch="refs-with/slash")
    api.create_branch("someone/model", branch="main", exist_ok=True)
    operations = [add("README.md", b"# On the branch")]
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.create_commit("someone/model", operations, commit_message="There", revision="refs-with/slash")
    references = api.list_repo_refs("someone/model")
    there = local_hub.commits("someone/model", revision="refs-with/slash")[0].id
    assert {branch.name: branch.target_commit for branch in references.branches} == {
        "main": pushed,
        "refs-with/slash": there,
    }
    assert [(tag.name, tag.target_commit) for tag in references.tags] == [("v1", pushed)]
    assert [commit.title for commit in api.list_repo_commits("someone/model", revision=there)] == [
        "There",
        "First",
        "initial commit",
    ]
    for revision, commit in {None: pushed, "v1": pushed, "refs-with/slash": there, there: there}.items():
        folder = snapshot_download(
            "someone/model", revision=revision, endpoint=local_hub.endpoint, cache_dir=tmp_path / "cache"
        )
        assert Path(folder).name == commit
        assert read(folder) == local_hub.files("someone/model", revision=commit)


def test_listings_name_files_and_folders(api: HfApi, pushed: str) -> None:
    everything = [".gitattributes", "README.md", "model.safetensors", "tasks/topic/labels.json"]
    assert sorted(api.list_repo_files("someone/model")) == everything
    top = [entry.path for entry in api.list_repo_tree("someone/model")]
    assert sorted(top) == [".gitattributes", "README.md", "model.safetensors", "tasks"]
    inside = api.list_repo_tree("someone/model", "tasks", recursive=True, expand=True, revision=pushed)
    assert [(entry.path, entry.last_commit.title) for entry in inside] == [
        ("tasks/topic", "First"),
        ("tasks/topic/labels.json", "First"),
    ]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("someone/model", "nothing"))
    weights, folder = api.get_paths_info("someone/model", ["model.safetensors", "tasks", "nothing"])
    assert (weights.size, weights.lfs.sha256) == (len(WEIGHTS), File(WEIGHTS).sha256)
    assert (folder.path, hasattr(folder, "tree_id")) == ("tasks", True)
    found = api.model_info("someone/model", files_metadata=True)
    assert (found.sha, found.private, found.gated, found.author) == (pushed, False, False, "someone")
    assert {sibling.rfilename: sibling.size for sibling in found.siblings}["model.safetensors"] == len(WEIGHTS)
    assert (found.card_data.license, "tiny" in found.tags) == ("mit", True)
    assert vars(api.model_info("someone/model", expand=["sha"]))["siblings"] is None


def test_long_listings_come_in_pages(local_hub: LocalHub) -> None:
    with LocalHub(page_size=4) as hub:
        hub.add("someone/model", {f"folder/{number}.txt": b"" for number in range(10)})
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        assert len(api.list_repo_files("someone/model")) == 11
        assert called(hub) == [("GET", "/api/models/someone/model/tree/main")] * 3


def test_the_storage_of_large_files_never_sees_the_token(local_hub: LocalHub, pushed: str, tmp_path: Path) -> None:
    got = hf_hub_download("someone/model", "model.safetensors", endpoint=local_hub.endpoint, cache_dir=tmp_path)
    assert Path(got).read_bytes() == WEIGHTS
    to_storage = [call for call in local_hub.requests if call.path.startswith("/lfs/")]
    assert [call.method for call in to_storage] == ["PUT", "GET"]
    assert not any(local_hub.token in str(call.headers) for call in to_storage)
    others = [call for call in local_hub.requests if call not in to_storage]
    assert {call.headers["authorization"] for call in others} == {f"Bearer {local_hub.token}"}


def test_parts_of_files_can_be_read(local_hub: LocalHub, pushed: str) -> None:
    files = HfFileSystem(endpoint=local_hub.endpoint, token=local_hub.token, skip_instance_cache=True)
    for path, content in {"README.md": CARD, "model.safetensors": WEIGHTS}.items():
        with files.open(f"someone/model/{path}", block_size=16) as file:
            file.seek(-20, 2)
            assert file.read(7) == content[-20:-13]
    assert [call.headers["range"][:6] for call in local_hub.requests if call.status == 206] == ["bytes="] * 2


def test_a_private_repository_is_there_for_its_owner_only(local_hub: LocalHub, tmp_path: Path) -> None:
    local_hub.add("someone/private", {"config.json": b"{}"}, private=True)
    local_hub.add_account("other", OTHERS)
    for token, status in ((False, 401), (OTHERS, 404)):
        with pytest.raises(RepositoryNotFoundError) as failure:
            HfApi(endpoint=local_hub.endpoint, token=token).model_info("someone/private")
        assert failure.value.response.status_code == status
        with pytest.raises(RepositoryNotFoundError):
            snapshot_download("someone/private", endpoint=local_hub.endpoint, token=token, cache_dir=tmp_path)
    assert hf_hub_download("someone/private", "config.json", endpoint=local_hub.endpoint, cache_dir=tmp_path)


def test_a_wrong_token_is_refused_wherever_it_is_sent(local_hub: LocalHub, tmp_path: Path) -> None:
    local_hub.add("someone/public", {"config.json": b"{}"})
    wrong = HfApi(endpoint=local_hub.endpoint, token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid user token") as failure:
        wrong.whoami()
    assert failure.value.response.status_code == 401
    for call in (wrong.model_info, wrong.create_repo):
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            call("someone/public")
    with pytest.raises(HfHubHTTPError, match="Unauthorized"):
        hf_hub_download("someone/public", "config.json", endpoint=local_hub.endpoint, token="hf_wrong")
    assert HfApi(endpoint=local_hub.endpoint, token=False).model_info("someone/public").sha


def test_a_gated_repository_shows_itself_and_keeps_its_files(local_hub: LocalHub, tmp_path: Path) -> None:
    local_hub.add("other/gated", {"config.json": b"{}"}, gated=True)
    for token, status in ((False, 401), (local_hub.token, 403)):
        with pytest.raises(GatedRepoError) as failure:
            hf_hub_download("other/gated", "config.json", endpoint=local_hub.endpoint, token=token, cache_dir=tmp_path)
        assert failure.value.response.status_code == status
        assert HfApi(endpoint=local_hub.endpoint, token=token).model_info("other/gated").gated == "manual"
    local_hub.let_in("other/gated")
    assert hf_hub_download("other/gated", "config.json", endpoint=local_hub.endpoint, cache_dir=tmp_path)


def test_only_owners_with_a_write_token_change_a_repository(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.add_account("someone", OTHERS, role="read")
    local_hub.add("other/model", {})
    local_hub.add("someone/model", {})
    reader = HfApi(endpoint=local_hub.endpoint, token=OTHERS)
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"
    refused = {"other/model": api, "someone/model": reader}
    for repo_id, client in refused.items():
        with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
            client.create_commit(repo_id, [add("a.txt", b"a")], commit_message="A")
        with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
            client.create_repo(f"{repo_id}-2")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=local_hub.endpoint, token=False).create_branch("someone/model", branch="b")


def test_what_is_unknown_is_named(local_hub: LocalHub, api: HfApi, pushed: str, tmp_path: Path) -> None:
    place = {"endpoint": local_hub.endpoint, "cache_dir": tmp_path}
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("someone/model")  # it is a model
    for revision in ("nowhere", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("someone/model", revision=revision)
        with pytest.raises(RevisionNotFoundError):
            snapshot_download("someone/model", revision=revision, **place)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("someone/model", "nothing.txt", **place)


def test_cards_are_read_as_the_hub_reads_them(local_hub: LocalHub, api: HfApi) -> None:
    local_hub.add("someone/model", {})
    faults = {
        b"---\nlicense: mine\n---\n": '"license"',
        b"---\nbase_model: /home/me/runs/1\n---\n": '"base_model"',
        b"---\ntags: tiny\n---\n": '"tags"',
        b"---\na: [\n---\n": "Invalid YAML",
        b"---\nmodel-index:\n- name: a\n  results: [{task: {type: t}}]\n---\n": r"results\[0\].dataset.name",
    }
    for card, message in faults.items():
        with pytest.raises(ValueError, match=f"(?s)Invalid metadata in README.md.*{message}"):
            api.create_commit("someone/model", [add("README.md", card)], commit_message="A card")
    assert {path for _, path in called(local_hub)} == {"/api/validate-yaml"}


def test_what_was_downloaded_is_found_without_the_hub(local_hub: LocalHub, pushed: str, tmp_path: Path) -> None:
    code = "import sys, huggingface_hub; print(huggingface_hub.snapshot_download('someone/model'))"
    folders = []
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        environment = local_hub.environment(tmp_path) | variables
        before = len(local_hub.requests)
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        folders.append(run.stdout.strip())
        assert (len(local_hub.requests) > before) == (not variables)
    assert folders[0] == folders[1]
    assert read(folders[0]) == local_hub.files("someone/model")
