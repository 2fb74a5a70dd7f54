"""Runs that publish: at the end, with every save, with a checkpoint to go on from; and data sets by their Hub id."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard

from hf_mtl.errors import UserError
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.run_file import dump_yaml
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.hub.published import command, leaks, said
from tests.hub.server import LocalHub
from tests.runs import rows, tiny_run
from tests.tiny import save_tiny_encoder


def published_run(folder: Path, **training: Any) -> dict[str, Any]:
    return tiny_run(folder, push_to_hub=True, hub_model_id="someone/triage", **training)


def titles(hub: LocalHub) -> list[str]:
    return [commit.title for commit in reversed(hub.commits("someone/triage"))]


def test_a_run_is_published_at_its_end(local_hub: LocalHub, tmp_path: Path) -> None:
    MultiTaskTrainer.from_config(published_run(tmp_path, hub_strategy="end", hub_private_repo=True)).train()
    assert titles(local_hub) == ["initial commit", "End of training"]
    assert local_hub.repositories() == [("model", "someone/triage", True)]
    assert local_hub.files("someone/triage")["model.safetensors"] == (tmp_path / "out/model.safetensors").read_bytes()


def test_saves_are_published_beside_training_with_what_was_measured(local_hub: LocalHub, tmp_path: Path) -> None:
    MultiTaskTrainer.from_config(published_run(tmp_path, num_train_epochs=3)).train()
    found = titles(local_hub)
    assert found[-1] == "End of training"
    assert found[1:-1], "no save was published"
    first = local_hub.commits("someone/triage")[-2]
    assert first.title == "Training in progress, step 8"
    metrics = json.loads(first.files["metrics.json"].content)
    history = [json.loads(line) for line in (tmp_path / "out/history.jsonl").read_text().splitlines()]
    assert metrics["validation"] == next(entry["metrics"] for entry in history if entry.get("split"))
    assert metrics["test"] == {}
    model = MultiTaskModel.from_pretrained("someone/triage", revision=first.id)
    assert list(model.tasks) == ["topic", "names"]
    assert leaks(local_hub.files("someone/triage"), str(tmp_path), local_hub.token) == []


def test_a_run_goes_on_elsewhere_from_the_checkpoint_that_was_published(local_hub: LocalHub, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    run = published_run(one, num_train_epochs=2, hub_strategy="checkpoint", save_total_limit=1)
    trainer = MultiTaskTrainer.from_config(run)
    trainer.train()
    files = local_hub.files("someone/triage")
    kept = {name: content for name, content in files.items() if name.startswith("last-checkpoint/")}
    assert {name.split("/")[1] for name in kept} == {"step-00000008"}
    assert leaks(files, str(tmp_path), local_hub.token) == []
    for name, content in {**kept, "history.jsonl": files["history.jsonl"]}.items():
        place = other / "out" / name.replace("last-checkpoint", "checkpoints")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    run["training"] |= {"output_dir": str(other / "out"), "push_to_hub": False}
    again = MultiTaskTrainer.from_config(run, resume=True)
    again.train()
    assert (other / "out/model.safetensors").read_bytes() == (one / "out/model.safetensors").read_bytes()


def test_a_run_goes_on_from_the_encoder_it_began_with_though_its_repository_has_changed(
    local_hub: LocalHub, tmp_path: Path
) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    for folder in (straight, stopped):
        folder.mkdir()
    save_tiny_encoder(tmp_path / "encoder")
    files = {file.name: file.read_bytes() for file in (tmp_path / "encoder").iterdir()}
    local_hub.add("someone/encoder", files)
    run = tiny_run(straight) | {"encoder": "someone/encoder"}
    MultiTaskTrainer.from_config(run).train()
    run["training"] |= {"output_dir": str(stopped / "out"), "push_to_hub": True, "hub_model_id": "someone/encoder"}
    first = MultiTaskTrainer.from_config(run)
    first.folder.save = None  # type: ignore[method-assign, assignment]  # dies after its last step
    with pytest.raises(TypeError):
        first.train()
    shutil.rmtree(stopped / "out/checkpoints/step-00000016")
    HfApi().upload_folder(
        repo_id="someone/encoder", folder_path=str(straight / "out"), allow_patterns=["*.safetensors"]
    )
    MultiTaskTrainer.from_config(run, resume=True).train()
    assert (stopped / "out/model.safetensors").read_bytes() == (straight / "out/model.safetensors").read_bytes()


def test_a_token_that_cannot_write_ends_the_run_before_training(
    local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="refuses the token"):
        MultiTaskTrainer.from_config(published_run(tmp_path)).train()
    assert (tmp_path / "out/history.jsonl").read_text() == ""


def test_a_hub_that_fails_at_the_end_loses_nothing(local_hub: LocalHub, tmp_path: Path) -> None:
    local_hub.fail("POST", "/commit/main", 1, 403)
    trainer = MultiTaskTrainer.from_config(published_run(tmp_path, hub_strategy="end"))
    with pytest.raises(UserError, match="The model is saved in .*; hf-mtl push .* someone/triage publishes it"):
        trainer.train()
    assert (tmp_path / "out/model.safetensors").exists()
    assert trainer.push_to_hub(commit_message="By hand").startswith(local_hub.endpoint)
    assert titles(local_hub)[-1] == "By hand"


def test_a_repository_is_called_like_the_folder_if_it_has_no_name(local_hub: LocalHub, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, push_to_hub=True, hub_strategy="end", num_train_epochs=1)
    MultiTaskTrainer.from_config(run).train()
    assert local_hub.repositories() == [("model", "someone/out", False)]


def test_processes_publish_once(local_hub: LocalHub, tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    with run_file.open("w", encoding="utf-8") as file:
        dump_yaml(published_run(tmp_path, num_train_epochs=2), file)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = local_hub.environment(tmp_path) | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*launch, "-m", "hf_mtl", "train", str(run_file)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert titles(local_hub).count("End of training") == 1
    assert local_hub.token not in done.stdout + done.stderr


def test_the_token_is_written_and_shown_nowhere(local_hub: LocalHub, tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    run = published_run(tmp_path, num_train_epochs=1, report_to=["tensorboard"])
    with run_file.open("w", encoding="utf-8") as file:
        dump_yaml(run, file)
    # At this level the client logs every call; `command` looks at what is printed.
    done = command(
        local_hub, tmp_path, "train", str(run_file), variables={"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}
    )
    assert done.returncode == 0, done.stderr
    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(name.startswith(str(tmp_path / "out" / "runs")) for name in written)
    assert leaks(written | local_hub.files("someone/triage"), local_hub.token) == []


@pytest.fixture
def data(local_hub: LocalHub) -> dict[str, bytes]:
    files = {
        f"{split}.jsonl": "".join(json.dumps(row) + "\n" for row in rows(count, seed)).encode()
        for seed, (split, count) in enumerate({"train": 60, "validation": 20, "test": 20}.items())
    }
    card = "---\nlicense: cc-by-4.0\nlanguage:\n- en\n---\n# Topics\n"
    return files | {"README.md": card.encode()}


def run_on(folder: Path, **dataset: Any) -> str:
    """A run file on a data set of the Hub."""
    run = tiny_run(folder, num_train_epochs=1)
    run["datasets"] = {"d": {"tokens_column": "tokens", **dataset}}
    with (folder / "run.yaml").open("w", encoding="utf-8") as file:
        dump_yaml(run, file)
    return str(folder / "run.yaml")


def test_a_data_set_is_trained_on_by_its_id_and_the_card_names_it(
    local_hub: LocalHub, tmp_path: Path, data: dict[str, bytes]
) -> None:
    commit = local_hub.add("someone/topics", data, repo_type="dataset", private=True)
    done = command(local_hub, tmp_path, "train", run_on(tmp_path, path="someone/topics", revision="main"))
    assert done.returncode == 0, done.stderr
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.datasets == ["someone/topics"]
    assert card.data.language == ["en"]
    assert {result.dataset_revision for result in card.data.eval_results} == {commit.id}
    assert "| cc-by-4.0 |" in card.text
    # What is cached goes on without the network; what is not says so.
    offline = {"HF_HUB_OFFLINE": "1"}
    again = command(local_hub, tmp_path, "train", str(tmp_path / "run.yaml"), "--overwrite", variables=offline)
    assert again.returncode == 0, again.stderr
    other = run_on(tmp_path, path="someone/others")
    assert "HF_HUB_OFFLINE" in said(command(local_hub, tmp_path, "check", other, variables=offline))


def test_data_sets_that_cannot_be_had_are_one_message(
    local_hub: LocalHub, tmp_path: Path, data: dict[str, bytes]
) -> None:
    local_hub.add("other/gated", data, repo_type="dataset", gated=True)
    local_hub.add("someone/topics", data, repo_type="dataset")
    for dataset, words in (
        ({"path": "other/gated"}, "gated: ask for access on its page"),
        ({"path": "someone/none"}, "no such repository"),
        ({"path": "someone/topics", "revision": "v9"}, "no such revision"),
    ):
        message = said(command(local_hub, tmp_path, "check", run_on(tmp_path, **dataset)))
        assert words in message, message
        assert f"datasets.d: {dataset['path']}" in message


def test_ctrl_c_does_not_wait_for_an_upload_and_the_run_can_be_resumed(local_hub: LocalHub, tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    with run_file.open("w", encoding="utf-8") as file:
        dump_yaml(published_run(tmp_path, num_train_epochs=4000), file)
    environment = local_hub.environment(tmp_path) | {"OMP_NUM_THREADS": "1"}
    # Started as from a shell: a job in the background would not hear of Ctrl-C.
    start = "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    start += f" sys.argv = ['hf-mtl', 'train', {str(run_file)!r}]; runpy.run_module('hf_mtl', run_name='__main__')"
    with subprocess.Popen([sys.executable, "-c", start], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("validation"):
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=120)
    assert process.returncode == 130
    assert "End of training" not in titles(local_hub)
    assert list((tmp_path / "out/checkpoints").iterdir())
    shutil.rmtree(tmp_path / "out")
