import copy
import json
import subprocess
import sys

import pytest
from transformers import AutoConfig, BertConfig

from hf_mtl.errors import UserError
from hf_mtl.modeling.configuration import FORMAT_VERSION, MultiTaskConfig
from hf_mtl.modeling.model import MultiTaskModel
from tests.tiny import ARCHITECTURES, save_tiny_encoder, tiny_config, tiny_model, tiny_tasks

SPECS = [task.spec.to_dict() for task in tiny_tasks()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_config_is_read_as_it_was(architecture, tmp_path):
    config = MultiTaskConfig(encoder_config=tiny_config(architecture), tasks=SPECS)
    config.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(read, MultiTaskConfig)
    assert type(read.encoder_config) is type(config.encoder_config)
    read.name_or_path = ""
    assert read.to_dict() == config.to_dict()
    assert read.tasks == SPECS
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "hf_mtl"
    assert written["format_version"] == FORMAT_VERSION == 1
    assert written["encoder_config"]["model_type"] == architecture
    assert [task["name"] for task in written["tasks"]] == ["topic", "moods", "score", "slots"]


def test_the_encoder_s_part_is_what_a_stock_checkpoint_would_hold(tmp_path):
    save_tiny_encoder(tmp_path / "stock")
    tiny_model(tmp_path / "encoder").save_pretrained(tmp_path / "model")
    stock = json.loads((tmp_path / "stock" / "config.json").read_text())
    ours = json.loads((tmp_path / "model" / "config.json").read_text())["encoder_config"]
    del stock["architectures"], stock["transformers_version"]
    assert ours == stock


def test_a_saved_config_tells_nothing_of_the_machine(tmp_path):
    tiny_model(tmp_path / "encoder").save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    MultiTaskModel.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    written = [(tmp_path / folder / "config.json").read_text() for folder in ("model", "again")]
    assert written[0] == written[1]


def test_a_config_of_a_newer_version_is_refused():
    with pytest.raises(UserError, match="format_version 2: made by a newer hf_mtl .* update hf_mtl"):
        MultiTaskConfig(encoder_config=tiny_config(), tasks=SPECS, format_version=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, r"tasks\[0\] \(topic\) has unknown keys colour; known are label_list, name,"),
        ({"name": "slots"}, "two tasks called 'slots'"),
    ],
)
def test_task_entries_that_make_no_sense_are_refused(change, message):
    tasks = copy.deepcopy(SPECS)
    tasks[0] |= change
    with pytest.raises(UserError, match=message):
        MultiTaskConfig(encoder_config=tiny_config(), tasks=tasks)


def test_a_task_without_a_type_is_refused():
    with pytest.raises(UserError, match="has no name or no task_type"):
        MultiTaskConfig(encoder_config=tiny_config(), tasks=[{"name": "topic"}])


def test_an_encoder_of_unknown_type_is_refused():
    with pytest.raises(UserError, match="encoder_config has no model_type"):
        MultiTaskConfig(encoder_config={"hidden_size": 32})
    with pytest.raises(UserError, match="encoder_config of type 'bort3' cannot be read"):
        MultiTaskConfig(encoder_config={"model_type": "bort3"})


def test_an_encoder_config_may_be_a_dict_or_a_config():
    config = tiny_config()
    from_dict = MultiTaskConfig(encoder_config=config.to_diff_dict(), tasks=SPECS)
    assert isinstance(from_dict.encoder_config, BertConfig)
    assert from_dict.encoder_config.to_dict() == config.to_dict()
    assert from_dict.get_text_config() is from_dict.encoder_config


def test_the_auto_classes_know_the_model_once_the_package_is_imported(tmp_path):
    tiny_model(tmp_path / "encoder").save_pretrained(tmp_path / "model")
    code = (
        "import hf_mtl, sys; from transformers import AutoConfig, AutoModel; "
        "print(*(type(auto.from_pretrained(sys.argv[1])).__name__ for auto in (AutoConfig, AutoModel)))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, text=True)
    assert run.stdout.split() == ["MultiTaskConfig", "MultiTaskModel"], run.stderr
