"""The model card: what it says is what happened, its code runs as printed, and the Hub's own classes read it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard

from hf_mtl.errors import UserError
from hf_mtl.hub.card import card_text, write_card
from hf_mtl.hub.card_data import card_data
from hf_mtl.hub.contents import read_contents
from hf_mtl.inference.export import export_task
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.training.trainer import MultiTaskTrainer
from tests.hub.published import trained
from tests.runs import tiny_run, write_rows

CODE = re.compile(r"```python\n(.*?)\n```", re.S)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"), sampling={"strategy": "round_robin"})


def test_a_finished_run_leaves_a_card_that_the_hubs_classes_read_back_equal(model: Path) -> None:
    card = ModelCard.load(model / "README.md")
    made = card_data(read_contents(model), str(model))
    assert card.data.to_dict() == made.to_dict()
    assert card.data.library_name == "hf_mtl"
    assert {"text-classification", "token-classification"} <= set(card.data.tags)


def test_every_metric_is_a_result_with_its_task_data_set_and_split(model: Path) -> None:
    metrics = json.loads((model / "metrics.json").read_text())
    results: list[EvalResult] = ModelCard.load(model / "README.md").data.eval_results
    found = {(one.dataset_split, one.task_name, one.metric_name): one.metric_value for one in results}
    expected = {
        (split, task, metric): value
        for split in ("validation", "test")
        for task, values in metrics[split].items()
        for metric, value in values.items()
        if isinstance(value, float)
    }
    assert found == expected
    assert {(one.task_name, one.task_type) for one in results} == {
        ("topic", "text-classification"),
        ("names", "token-classification"),
    }
    kinds = {one.metric_name: (one.metric_type, one.metric_args) for one in results if one.task_name == "topic"}
    assert kinds["f1_macro"] == ("f1", {"average": "macro"})
    assert kinds["mcc"] == ("matthews_correlation", None)


def test_the_code_of_a_card_runs_as_printed(model: Path, tmp_path: Path) -> None:
    card = (model / "README.md").read_text()
    (code,) = CODE.findall(card)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    answer = MultiTaskPipeline.from_pretrained(model)("Replace this with a text of your own.")
    assert done.stdout.strip() == str(answer)


def test_the_code_of_a_single_tasks_card_runs_as_printed(model: Path, tmp_path: Path) -> None:
    export_task(model, "names", tmp_path / "names")
    (code,) = CODE.findall(card_text(read_contents(model), "names", "names"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[")
    assert "hf_mtl" not in code


def test_a_task_of_pairs_is_called_with_a_pair(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, num_train_epochs=1)
    rows = [{"a": f"text {n}", "b": f"other {n}", "same": ["yes", "no"][n % 2]} for n in range(12)]
    files = {split: str(write_rows(tmp_path / f"pairs-{split}.jsonl", rows)) for split in ("train", "test")}
    pairs = {"path": "json", "data_files": files, "text_column": "a", "text_pair_column": "b"}
    task = {"task_type": "text-classification", "dataset": "pairs", "label_column": "same"}
    run = {**run, "datasets": run["datasets"] | {"pairs": pairs}, "tasks": run["tasks"] | {"same": task}}
    MultiTaskTrainer.from_config(run).train()
    (code,) = CODE.findall((tmp_path / "out" / "README.md").read_text())
    names: dict[str, object] = {}
    exec(code, names)  # the code that the card tells its reader to run
    assert code.count("print(") == 2
    assert '"text_pair"' in code


def test_the_card_tells_rows_recipe_and_hardware_from_the_run(model: Path) -> None:
    text = (model / "README.md").read_text()
    record = json.loads((model / "training_info.json").read_text())
    assert "| d | local files | train 60, validation 20, test 20 | topic, names |" in text
    assert "train: 2 rows without a label for any task left out" in text
    assert "strategy: round_robin" in text
    assert "learning_rate: 0.005" in text
    assert "warmup" not in text
    assert record["versions"]["transformers"] in text
    assert record["hardware"] in text
    assert f"{record['steps']} steps" in text
    assert "license" not in text.partition("---\n\n")[0]
    assert "fewer than 20 examples in test of `books`" in text


def test_a_card_changed_by_hand_is_kept_and_an_unchanged_one_is_written_anew(tmp_path: Path) -> None:
    out = trained(tmp_path)
    written = (out / "README.md").read_text()
    write_card(out)
    assert (out / "README.md").read_text() == written
    metrics = json.loads((out / "metrics.json").read_text())
    metrics["test"]["topic"]["accuracy"] = 0.123456
    (out / "metrics.json").write_text(json.dumps(metrics))
    write_card(out)
    assert "0.1235" in (out / "README.md").read_text()
    (out / "README.md").write_text(written.replace("# out", "# My model"))
    with pytest.raises(UserError, match="changed by hand; keep it, or write it anew with --overwrite"):
        write_card(out)
    assert "# My model" in (out / "README.md").read_text()
    write_card(out, overwrite=True)
    assert "# My model" not in (out / "README.md").read_text()


def test_the_card_tells_which_tasks_have_layers_of_their_own(model: Path, tmp_path: Path) -> None:
    told = "Tasks have top layers of their own (topic: 1; names: 1), the others are everybody's."
    assert told in ModelCard.load(model / "README.md").text
    for number, keys in enumerate(({"sharing": {"private_layers": 0}}, {"sharing": {"private_layers": 1}, "lora": {}})):
        (tmp_path / str(number)).mkdir()
        other = trained(tmp_path / str(number), **keys)
        assert "layers of their own" not in ModelCard.load(other / "README.md").text


@pytest.mark.parametrize("card", ["", "Some words of mine.\n"])
def test_a_card_without_metadata_is_written_anew_without_a_warning(model: Path, card: str, caplog: Any) -> None:
    card_text(read_contents(model), "somebody/model", old=[card])
    assert not caplog.records


def test_labels_can_neither_break_a_table_nor_be_read_as_html(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, num_train_epochs=1)
    labels = ["a|b", "<script>x</script>", "`tick`\nnew line"]
    rows = [{"tokens": ["word", str(n)], "topic": labels[n % 3]} for n in range(12)]
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", rows)
    MultiTaskTrainer.from_config({**run, "tasks": {"topic": run["tasks"]["topic"]}}).train()
    text = (tmp_path / "out" / "README.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| topic | text-classification")]
    assert row.count(" | ") == 3
    assert "`<script>x</script>`" in row
    assert "`'tick' new line`" in row


def test_what_is_not_known_is_left_out(tmp_path: Path, model: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((model / name).read_bytes())
    card = ModelCard(card_text(read_contents(bare), "someone/bare"))
    for heading in ("## Training data", "## Results", "## Training\n"):
        assert heading not in card.text
    assert not {"base_model", "datasets", "license", "language", "model-index"} & set(card.data.to_dict())
    assert "None" not in card.text


def test_metadata_that_somebody_adds_stays_when_the_card_is_written_anew(tmp_path: Path) -> None:
    card = trained(tmp_path) / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mit\n", 1))
    write_card(tmp_path / "out", "someone/triage")
    assert ModelCard.load(card).data.license == "mit"
    assert '"someone/triage"' in card.read_text()


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"model_type": "hf_mtl"}),
        ("config.json", {"model_type": "hf_mtl", "encoder_config": {}, "tasks": "abc"}),
        ("config.json", {"model_type": "hf_mtl", "encoder_config": {}, "tasks": [], "lora": "x"}),
        ("metrics.json", {"test": [1]}),
        ("training_info.json", {"seconds": 1}),
        ("training_info.json", []),
        ("run.yaml", {"tasks": ["a"]}),
    ],
)
def test_a_file_that_no_run_leaves_is_refused_by_its_name(model: Path, tmp_path: Path, file: str, values: Any) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / file).write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"{file} .*take the folder as it was saved"):
        write_card(tmp_path / "model")


def test_a_share_of_train_is_called_so(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, num_train_epochs=1)
    source = run["datasets"]["d"]
    source |= {"data_files": {"train": source["data_files"]["train"]}, "splits": {"train": "train", "validation": 0.2}}
    MultiTaskTrainer.from_config(run).train()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert {(one.dataset_split, one.dataset_args["share"]) for one in card.data.eval_results} == {("train", 0.2)}
    assert "(0.2 of train)" in card.text


def test_a_task_that_was_added_brings_no_facts_about_the_others(model: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, num_train_epochs=1)
    task = {"more": run["tasks"]["topic"]}
    trainer = MultiTaskTrainer.from_config({**run, "encoder": "nobody/reads-this", "tasks": task}, onto=str(model))
    trainer.train()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model is None
    assert {one.task_name for one in card.data.eval_results} == {"more"}
    assert "- topic: trained in an earlier run, of which nothing is known here." in card.text
    assert "The run that added more to a model that had topic, names before it." in card.text
    assert "## Training\n" not in card_text(read_contents(tmp_path / "out"), "someone/topic", "topic")
