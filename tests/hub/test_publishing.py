"""A model's way to the Hub and back, with the real clients: huggingface_hub, transformers and PEFT."""

import dataclasses
import json
import shutil
from pathlib import Path

import huggingface_hub
import peft
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

from hf_mtl.errors import UserError
from hf_mtl.hub.push import push_model
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.hub.published import TEXT, command, here, leaks, python, said, trained
from tests.hub.server import LocalHub
from tests.runs import tiny_run
from tests.tiny import save_tiny_encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with adapters on an encoder that has been named as a repository, with the adapters' own fingerprint."""
    folder = tmp_path_factory.mktemp("adapted")
    out = trained(folder, lora={"scope": "per_task", "r": 2})
    config = json.loads((out / "config.json").read_text())
    config["lora"]["base"]["encoder"] = "someone/encoder"
    (out / "config.json").write_text(json.dumps(config))
    return out


def test_a_pushed_model_read_back_into_an_empty_cache_is_the_same(model: Path, local_hub: LocalHub) -> None:
    push_model(model, "someone/triage")
    back, own = MultiTaskModel.from_pretrained("someone/triage"), MultiTaskModel.from_pretrained(model)
    assert back.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(weight, own.state_dict()[name]) for name, weight in back.state_dict().items())
    answer = MultiTaskPipeline.from_pretrained(model)(TEXT)
    assert MultiTaskPipeline.from_pretrained("someone/triage")(TEXT) == answer
    assert pipeline("multi-task", model="someone/triage")(TEXT) == answer


def test_a_push_is_one_commit_with_model_tokenizer_run_file_metrics_and_card(model: Path, local_hub: LocalHub) -> None:
    push_model(model, "someone/triage")
    first, initial = local_hub.commits("someone/triage")
    assert set(first.files) - set(initial.files) == {
        "README.md", "config.json", "metrics.json", "model.safetensors", "run.yaml", "tokenizer.json",
        "tokenizer_config.json", "training_info.json",
    }  # fmt: skip


def test_nothing_published_names_a_place_of_this_machine_or_the_token(model: Path, local_hub: LocalHub) -> None:
    push_model(model, "someone/triage", per_task=True)
    for repository in ("someone/triage", "someone/triage-topic", "someone/triage-names"):
        files = local_hub.files(repository)
        assert leaks(files, *here(), str(model.parent), local_hub.token, "base_dir") == []


def test_an_unchanged_model_makes_no_commit_and_a_changed_card_sends_no_weights(
    model: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    push_model(folder, "someone/triage")
    sent, commits = local_hub.uploads, len(local_hub.commits("someone/triage"))
    push_model(folder, "someone/triage")
    assert len(local_hub.commits("someone/triage")) == commits
    code = 'MultiTaskPipeline.from_pretrained("out/model")'
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n{code}\nBy hand.\n")
    push_model(folder, "someone/triage")
    newest = local_hub.commits("someone/triage")[0]
    assert [path for _, path in newest.operations] == ["README.md"]
    assert newest.files["README.md"].content.endswith(b'from_pretrained("someone/triage")\nBy hand.\n')
    assert local_hub.uploads == sent


def test_weights_of_an_earlier_model_go_with_the_commit_that_brings_others(
    model: Path, adapted: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    push_model(model, "someone/triage")
    push_model(adapted, "someone/triage")
    files = local_hub.files("someone/triage")
    assert "model.safetensors" not in files
    assert "adapters/names/adapter_model.safetensors" in files
    push_model(model, "someone/triage")
    assert not [name for name in local_hub.files("someone/triage") if name.startswith(("adapters/", "heads."))]


def test_a_card_that_was_changed_on_the_hub_is_kept_and_its_metadata_in_any_case(
    model: Path, local_hub: LocalHub
) -> None:
    push_model(model, "someone/triage")
    written = local_hub.files("someone/triage")["README.md"].decode()
    api = huggingface_hub.HfApi()
    licensed = written.replace("---\n", "---\nlicense: mit\n", 1)
    api.upload_file(path_or_fileobj=licensed.encode(), path_in_repo="README.md", repo_id="someone/triage")
    push_model(model, "someone/triage")
    assert ModelCard(local_hub.files("someone/triage")["README.md"].decode()).data.license == "mit"
    edited = licensed.replace("## Use", "## How to use it")
    api.upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id="someone/triage")
    told: list[str] = []
    push_model(model, "someone/triage", say=told.append)
    assert local_hub.files("someone/triage")["README.md"].decode() == edited
    assert "its card was changed there and is kept" in told[-1]


def test_a_private_models_tasks_are_private_and_a_public_repository_does_not_take_a_private_model(
    model: Path, local_hub: LocalHub
) -> None:
    push_model(model, "someone/triage", private=True)
    push_model(model, "someone/triage", per_task=True)
    assert all(private for _, _, private in local_hub.repositories())
    local_hub.add("someone/public", {"a.txt": b"a"})
    with pytest.raises(UserError, match="for everybody to read; make it private in its settings"):
        push_model(model, "someone/public", private=True)


def test_each_task_is_pushed_as_a_checkpoint_that_stock_transformers_loads(
    model: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    push_model(model, "someone/triage", per_task=True)
    printed = python(
        local_hub,
        tmp_path,
        "import json, sys; from transformers import pipeline\n"
        f"topic = pipeline('text-classification', model='someone/triage-topic')({TEXT!r})\n"
        f"names = pipeline('token-classification', model='someone/triage-names')({TEXT!r})\n"
        "assert 'hf_mtl' not in sys.modules\n"
        "print(json.dumps([topic, names], default=float))",
    )
    answer = MultiTaskPipeline.from_pretrained(model)(TEXT)
    assert json.loads(printed) == json.loads(json.dumps([answer["topic"], answer["names"]], default=float))


def test_what_the_card_says_of_transformers_alone_is_so(model: Path, local_hub: LocalHub, tmp_path: Path) -> None:
    push_model(model, "someone/triage")
    printed = python(
        local_hub,
        tmp_path,
        "from transformers import AutoConfig, AutoTokenizer\n"
        "print(type(AutoTokenizer.from_pretrained('someone/triage')).__name__)\n"
        "try: AutoConfig.from_pretrained('someone/triage')\n"
        "except ValueError as error: print('hf_mtl' in str(error))",
    )
    assert printed.split() == [type(AutoTokenizer.from_pretrained(model)).__name__, "True"]


def test_a_branch_a_commit_and_a_private_repository_are_read_by_name(model: Path, local_hub: LocalHub) -> None:
    push_model(model, "someone/triage", private=True, revision="v1")
    assert local_hub.repositories()[-1] == ("model", "someone/triage", True)
    commit = local_hub.commits("someone/triage", revision="v1")[0].id
    for revision in ("v1", commit):
        assert MultiTaskModel.from_pretrained("someone/triage", revision=revision).tasks.keys() == {"topic", "names"}
    with pytest.raises(UserError, match="no such (file|revision)|no config.json|config.json"):
        MultiTaskModel.from_pretrained("someone/triage")
    with pytest.raises(UserError, match="no such revision; give a branch, a tag or a commit"):
        MultiTaskModel.from_pretrained("someone/triage", revision="v2")


def test_adapters_are_pushed_without_their_encoder_and_peft_reads_them(
    adapted: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    encoder = tmp_path / "encoder"
    save_tiny_encoder(encoder)
    local_hub.add("someone/encoder", {file.name: file.read_bytes() for file in encoder.iterdir()})
    push_model(adapted, "someone/adapted", adapters_only=True)
    files = local_hub.files("someone/adapted")
    assert "model.safetensors" not in files
    assert leaks(files, *here(), str(adapted.parent)) == []
    answer = MultiTaskPipeline.from_pretrained("someone/adapted")(TEXT)
    assert answer == MultiTaskPipeline.from_pretrained(adapted)(TEXT)
    stock = AutoModel.from_pretrained("someone/encoder", add_pooling_layer=False).eval()
    ids = torch.tensor([[2, 20, 30, 40, 3]])
    model = MultiTaskModel.from_pretrained("someone/adapted")
    ours = model.encode(ids, tasks=["names"])["names"]
    theirs = peft.PeftModel.from_pretrained(stock, "someone/adapted", subfolder="adapters/names")(ids)
    assert torch.allclose(ours, theirs.last_hidden_state, atol=1e-6)
    card = ModelCard(files["README.md"].decode())
    assert "PeftModel.from_pretrained" in card.text


def test_a_model_goes_on_as_the_encoder_of_another_run_with_its_heads(
    model: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    push_model(model, "someone/triage")
    saved, tasks = MultiTaskModel.from_pretrained(model), list(MultiTaskModel.from_pretrained(model).tasks.values())
    kept = MultiTaskModel.from_encoder("someone/triage", tasks, heads="keep").state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in saved.state_dict().items())
    run = tiny_run(tmp_path, num_train_epochs=1, max_steps=1)
    trainer = MultiTaskTrainer.from_config({**run, "encoder": "someone/triage", "heads": "keep", "max_length": 40})
    assert all(torch.equal(weight, trainer.model.state_dict()[name]) for name, weight in saved.state_dict().items())
    trainer.train()
    record = json.loads((tmp_path / "out" / "training_info.json").read_text())
    assert record["encoder"] == {"id": "someone/triage", "commit": local_hub.commits("someone/triage")[0].id}
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.base_model, data.base_model_relation) == ("someone/triage", "finetune")


def test_the_command_line_pushes_predicts_evaluates_and_goes_on_offline(
    model: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    pushed = command(local_hub, tmp_path, "push", str(model), "triage", "--private")
    assert pushed.returncode == 0, pushed.stderr
    assert "someone/triage/commit/" in pushed.stdout
    here = command(local_hub, tmp_path, "predict", str(model), TEXT)
    there = command(local_hub, tmp_path, "predict", "someone/triage", TEXT)
    assert there.stdout == here.stdout != ""
    run_file = str(model / "run.yaml")
    measured = command(
        local_hub, tmp_path, "evaluate", "someone/triage", "--config", run_file, "--json", str(tmp_path / "m")
    )
    assert measured.returncode == 0, measured.stderr
    assert json.loads((tmp_path / "m").read_text()) == json.loads((model / "metrics.json").read_text())["test"]
    assert "give yours with --config FILE" in said(command(local_hub, tmp_path, "evaluate", "someone/triage"))
    offline = {"HF_HUB_OFFLINE": "1"}
    assert command(local_hub, tmp_path, "predict", "someone/triage", TEXT, variables=offline).stdout == here.stdout
    missing = said(command(local_hub, tmp_path, "predict", "someone/other", TEXT, variables=offline))
    assert "HF_HUB_OFFLINE is set" in missing


def test_auto_classes_read_a_published_model_once_hf_mtl_is_imported(model: Path, local_hub: LocalHub) -> None:
    push_model(model, "someone/triage")
    assert AutoConfig.from_pretrained("someone/triage").model_type == "hf_mtl"
    assert isinstance(AutoModel.from_pretrained("someone/triage"), MultiTaskModel)


def test_transformers_own_push_publishes_a_model_with_its_adapters(
    model: Path, adapted: Path, local_hub: LocalHub, tmp_path: Path
) -> None:
    MultiTaskModel.from_pretrained(model).push_to_hub("someone/plain")
    back, own = MultiTaskModel.from_pretrained("someone/plain"), MultiTaskModel.from_pretrained(model).state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in back.state_dict().items())
    encoder = tmp_path / "encoder"
    save_tiny_encoder(encoder)
    local_hub.add("someone/encoder", {file.name: file.read_bytes() for file in encoder.iterdir()})
    adapters = MultiTaskModel.from_pretrained(adapted)
    adapters.push_to_hub("someone/adapted", revision="v1")
    answer = MultiTaskPipeline.from_pretrained(adapted)(TEXT)
    tokenizer = AutoTokenizer.from_pretrained(adapted)
    back = MultiTaskModel.from_pretrained("someone/adapted", revision="v1")
    assert MultiTaskPipeline(model=back, tokenizer=tokenizer)(TEXT) == answer
    adapters.base = dataclasses.replace(adapters.base, encoder=str(encoder))
    with pytest.raises(UserError, match="which nobody else has"):
        adapters.push_to_hub("someone/adapted")
