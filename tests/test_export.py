"""A task taken out: a stock checkpoint that a Python without hf_mtl loads."""

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from hf_mtl.errors import UserError
from hf_mtl.inference.export import export_task
from hf_mtl.inference.pipeline import MultiTaskPipeline
from tests.tiny import TOKENIZERS, tiny_model, tiny_tokenizer

TEXT = "Book a table at Nobu in London, [SEP] 今天 please. " * 5

# Run with -I in another folder: neither this repository nor an installed copy of it is to be found.
STOCK_ONLY = """
import importlib.abc, json, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_mtl":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
try:
    import hf_mtl
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("hf_mtl can be imported")
import transformers
answers = {}
for task_type, folder, options in json.loads(sys.argv[1]):
    pipe = transformers.pipeline(task_type, model=folder, device="cpu")
    answers[folder] = pipe(sys.argv[2], **options)
assert not any(name.split(".")[0] == "hf_mtl" for name in sys.modules)
print(json.dumps(answers, default=float))
"""


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp(request.param)
    tiny_model(made / "encoder", request.param).save_pretrained(made / "model")
    tiny_tokenizer(TOKENIZERS[request.param], 32).save_pretrained(made / "model")
    AutoTokenizer.from_pretrained(made / "model", split_special_tokens=True).save_pretrained(made / "model")
    return made


def test_every_task_loads_without_hf_mtl_and_answers_the_same(folder, tmp_path):
    pipe = MultiTaskPipeline.from_pretrained(folder / "model", device="cpu")
    tagging = {"aggregation_strategy": "simple", "stride": 4}
    asked = []
    for name, task in pipe.model.tasks.items():
        out = tmp_path / name
        export_task(folder / "model", name, out)
        asked.append(
            (task.spec.task_type, str(out), tagging if name == "slots" else {"truncation": True, "top_k": None})
        )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-I", "-c", STOCK_ONLY, json.dumps(asked), TEXT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    stock = json.loads(run.stdout)
    answers = pipe(TEXT, top_k=None, **tagging)
    for name, answer in answers.items():
        expected = stock[str(tmp_path / name)]
        assert len(answer) == len(expected)
        for given, wanted in zip(answer, expected, strict=True):
            assert given.pop("score") == pytest.approx(wanted.pop("score"), abs=1e-5)
            assert given == wanted


def test_a_checkpoint_holds_what_stock_checkpoints_hold(folder, tmp_path):
    export_task(folder / "model", "topic", tmp_path / "a" / "topic")
    config = json.loads((tmp_path / "a" / "topic" / "config.json").read_text())
    assert config["id2label"] == {"0": "books", "1": "music", "2": "weather"}
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert config["problem_type"] == "single_label_classification"
    tokenizer = json.loads((tmp_path / "a" / "topic" / "tokenizer_config.json").read_text())
    assert (tokenizer["model_max_length"], tokenizer["split_special_tokens"]) == (32, True)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["topic"]


def test_an_unknown_task_names_those_there_are(folder, tmp_path):
    with pytest.raises(UserError, match="no task 'intent'; the model has topic, moods, score, slots"):
        export_task(folder / "model", "intent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        export_task(folder / "model", "topic", out)
    with pytest.raises(UserError, match="holds no checkpoint"):
        export_task(folder / "model", "topic", out, overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        export_task(folder / "model", "topic", out / "notes.txt", overwrite=True)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_checkpoint_is_overwritten_when_asked(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export_task(folder / "model", "topic", out)
    (out / "left.txt").write_text("of the old one")
    export_task(folder / "model", "moods", out, overwrite=True)
    assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "happy", "1": "sad"}
    assert not (out / "left.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        export_task(tmp_path / "nowhere", "topic", tmp_path / "out")


def test_a_failed_export_leaves_nothing(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_task(folder / "model", "topic", out)
    before = sorted(path.name for path in out.iterdir())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    with pytest.raises(UserError, match="No space left"):
        export_task(folder / "model", "moods", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
