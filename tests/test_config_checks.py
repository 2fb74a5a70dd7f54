"""Checks between keys: names, data sets, columns, task kinds, metrics, sampling."""

from typing import Any

import pytest
import torch

from hf_mtl.config import load_config
from hf_mtl.config_checks import MODULE_NAMES
from hf_mtl.config_defaults import MULTI
from hf_mtl.config_task_checks import METRICS, REGRESSION, SINGLE, SPANS, TAGS
from hf_mtl.tasks.text_classification import TextClassification
from hf_mtl.tasks.token_classification import TokenClassification
from tests.run_dicts import GONE, RUN, TEXT, changed, errors_of


def renamed(name: str) -> dict[str, Any]:
    return changed(tasks__topic=GONE, **{f"tasks__{name}": RUN["tasks"]["topic"]})


@pytest.mark.parametrize("name", ["topic2", "主题", "größe", "intent_2"])
def test_names_of_any_script_are_task_names(name: str) -> None:
    assert name in load_config(renamed(name)).tasks


@pytest.mark.parametrize("name", ["my-task", "2nd", "a.b", "_private", "", "with blank"])
def test_names_that_are_no_identifiers_are_refused(name: str) -> None:
    run = changed()
    run["tasks"][name] = run["tasks"].pop("topic")
    assert "letters of any script, digits and _" in errors_of(run)[f"tasks.{name}"]


@pytest.mark.parametrize("name", ["encoder", "heads", "shared", "forward", "items", "training", "type"])
def test_names_that_the_model_needs_are_refused(name: str) -> None:
    assert name + "_task" in errors_of(renamed(name))[f"tasks.{name}"]


def test_the_refused_names_are_those_that_a_module_dict_refuses() -> None:
    module = torch.nn.ModuleDict()
    public = {name for name in dir(module) if not name.startswith("_")}  # names with "_" in front are refused anyway
    assert public <= MODULE_NAMES


def test_the_metrics_are_those_that_the_task_types_have() -> None:
    for problem_type in (SINGLE, MULTI, REGRESSION):
        assert sorted(METRICS[problem_type]) == sorted(TextClassification.metric_names[problem_type])
        assert METRICS[problem_type][0] == TextClassification.metric_names[problem_type][0]
    names = {name for kind in (SPANS, TAGS) for name in METRICS[kind]}
    assert names == {name for each in TokenClassification.metric_names.values() for name in each}


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"tasks__topic__dataset": "review"}, "tasks.topic.dataset", "did you mean reviews?"),
        ({"tasks__topic__dataset": "xyz"}, "tasks.topic.dataset", "use one of reviews, words"),
        ({"tasks__slots": GONE}, "datasets.words", "no task uses it"),
        ({"datasets__reviews__data_files": GONE}, "datasets.reviews.data_files", "missing: path json reads files"),
        ({"datasets__reviews__path": "jsonl"}, "datasets.reviews.data_files", "did you mean path: json?"),
        ({"datasets__reviews__path": "u/x"}, "datasets.reviews.data_files", "'u/x' is taken for a Hub data set"),
        (
            {"datasets__reviews": {"path": "x/train.jsonl.gz", "text_column": "t"}},
            "datasets.reviews.path",
            "looks like a file; write path: json and data_files: {train: x/train.jsonl.gz}",
        ),
        ({"datasets__reviews__revision": "main"}, "datasets.reviews.revision", "only for a Hub data set"),
        ({"datasets__reviews__csv": {}}, "datasets.reviews.csv", "only with path csv"),
        ({"datasets__reviews__columns": ["text"]}, "datasets.reviews.columns", "only with path conll"),
        ({"datasets__reviews__text_column": GONE}, "datasets.reviews.text_column", "tokens_column"),
        (
            {"datasets__reviews__text_column": GONE, "datasets__reviews__text_pair_column": "b"},
            "datasets.reviews.text_pair_column",
            "needs text_column",
        ),
        ({"datasets__words__tokens_column": GONE}, "datasets.words.tokens_column", "missing: task slots"),
        ({"datasets__reviews__token_separator": ""}, "datasets.reviews.token_separator", "only with tokens_column"),
        ({"tasks__topic__label_column": "text"}, "tasks.topic.label_column", "is the text_column"),
        (
            {"datasets__words__text_column": "a", "datasets__words__text_pair_column": "b"},
            "tasks.slots.dataset",
            "token-classification reads one text",
        ),
        ({"tasks__slots__problem_type": REGRESSION}, "tasks.slots.problem_type", "not for token-classification"),
        ({"tasks__topic__tag_scheme": "BIO"}, "tasks.topic.tag_scheme", "only for token-classification"),
        ({"tasks__slots__threshold": 0.3}, "tasks.slots.threshold", "only for multi_label_classification"),
        ({"tasks__slots__label_separator": ","}, "tasks.slots.label_separator", "only for multi_label_classification"),
        ({"tasks__slots__metrics": ["f1", "acuracy"]}, "tasks.slots.metrics[1]", "did you mean accuracy?"),
        ({"tasks__topic__metrics": ["f1"]}, "tasks.topic.metrics[0]", "not a metric of single_label_classification or"),
        ({"tasks__topic__metrics": ["mcc", "mcc"]}, "tasks.topic.metrics[1]", "'mcc' is given twice"),
        ({"tasks__topic__label_list": ["a", True, "true"]}, "tasks.topic.label_list[2]", "'true' is given twice"),
        ({"tasks__topic__label_list": ["a", ""]}, "tasks.topic.label_list[1]", "an empty label"),
        ({"tasks__topic__label_list": ["a", None]}, "tasks.topic.label_list[1]", "null is not text"),
        ({"tasks__topic__label_list": []}, "tasks.topic.label_list", "empty"),
        ({"tasks__topic__class_weight": "balance"}, "tasks.topic.class_weight", "balanced or a mapping"),
        ({"tasks__topic__class_weight": {"a": 0}}, "tasks.topic.class_weight.a", "0 is not a number above 0"),
        (
            {"tasks__topic__label_list": ["sport", "art"], "tasks__topic__class_weight": {"sprt": 2}},
            "tasks.topic.class_weight.sprt",
            "did you mean sport?",
        ),
        ({"tasks__topic__label_smoothing_factor": 1}, "tasks.topic.label_smoothing_factor", "below 1"),
        ({"sampling": {"strategy": "temperature"}}, "sampling.temperature", "missing"),
        ({"sampling": {"temperature": 2}}, "sampling.temperature", "only with strategy temperature"),
        ({"sampling": {"strategy": "temperature", "temperature": 0}}, "sampling.temperature", "above 0"),
        ({"sampling": {"strategy": "weights"}}, "sampling.weights", "{reviews: 1, words: 1}"),
        ({"sampling": {"weights": {"reviews": 1, "words": 2}}}, "sampling.weights", "only with strategy weights"),
        ({"sampling": {"strategy": "weights", "weights": {"reviews": 1}}}, "sampling.weights.words", "missing"),
        (
            {"sampling": {"strategy": "weights", "weights": {"reviews": 1, "words": 1, "word": 1}}},
            "sampling.weights.word",
            "did you mean words?",
        ),
        ({"training__eval_strategy": "steps"}, "training.eval_steps", "missing"),
        ({"training__eval_steps": 10}, "training.eval_steps", "only with eval_strategy steps; it is epoch"),
        ({"training__max_steps": 0}, "training.max_steps", "use -1"),
    ],
)
def test_a_contradiction_is_told_at_its_key_alone(change: dict, path: str, message: str) -> None:
    errors = errors_of(changed(**change))
    assert list(errors) == [path]
    assert message in errors[path]


@pytest.mark.parametrize("key", ["class_weight", "label_list", "label_smoothing_factor", "threshold"])
def test_regression_has_no_labels_and_what_goes_with_them(key: str) -> None:
    value = {"class_weight": "balanced", "label_list": ["a"], "label_smoothing_factor": 0.1, "threshold": 0.5}[key]
    run = changed(tasks__topic__problem_type=REGRESSION, **{f"tasks__topic__{key}": value})
    assert errors_of(run)[f"tasks.topic.{key}"].startswith("not for regression; only for ")


def test_rmse_is_a_metric_but_never_the_score() -> None:
    good = changed(tasks__topic__problem_type=REGRESSION, tasks__topic__metrics=["pearson", "rmse"])
    assert load_config(good).tasks["topic"].metrics == ["pearson", "rmse"]
    good["tasks"]["topic"]["metrics"].reverse()
    assert "cannot be first" in errors_of(good)["tasks.topic.metrics[0]"]


def test_a_metric_with_a_slash_is_of_the_hub_and_taken_for_any_task() -> None:
    config = load_config(changed(tasks__topic__metrics=["accuracy", "user/x"], tasks__slots__metrics=["user/y"]))
    assert config.tasks["slots"].metrics == ["user/y"]


def test_tags_without_spans_have_other_metrics() -> None:
    assert load_config(changed(tasks__slots__metrics=["f1_macro", "f1"]))  # the scheme is to be found
    assert load_config(changed(tasks__slots__tag_scheme="none", tasks__slots__metrics=["f1_macro"]))
    run = changed(tasks__slots__tag_scheme="none", tasks__slots__metrics=["f1"])
    assert "tag_scheme none" in errors_of(run)["tasks.slots.metrics[0]"]


@pytest.mark.parametrize(("key", "value"), [("threshold", "tune"), ("label_separator", ",")])
def test_a_key_that_only_several_labels_have_makes_the_task_multi_label(key: str, value: str) -> None:
    config = load_config(changed(**{f"tasks__topic__{key}": value}))
    assert config.tasks["topic"].problem_type == MULTI
    run = changed(tasks__topic__label_smoothing_factor=0.1, **{f"tasks__topic__{key}": value})
    assert "not for multi_label_classification" in errors_of(run)["tasks.topic.label_smoothing_factor"]


def test_splits_are_those_that_data_files_has() -> None:
    splits = load_config(RUN).datasets["reviews"].splits
    assert splits == {"train": "train", "validation": "validation"}
    for files in ("a.jsonl", ["a.jsonl", "b.jsonl"]):
        config = load_config(changed(datasets__reviews__data_files=files)).datasets["reviews"]
        assert config.data_files == {"train": files}
        assert config.splits == {"train": "train"}


def test_a_share_is_cut_from_train_which_need_not_be_named() -> None:
    config = load_config(changed(datasets__words__splits={"validation": 0.1, "test": 0.2}))
    assert config.datasets["words"].splits == {"train": "train", "validation": 0.1, "test": 0.2}


@pytest.mark.parametrize(
    ("splits", "path", "message"),
    [
        ({"train": 0.5}, "splits.train", "0.5 is a share"),
        ({"validation": 0.5, "test": 0.5}, "splits", "add up to 1"),
        ({"validation": 1.5}, "splits.validation", "1.5 is not text or a number below 1"),
        ({"validation": 0}, "splits.validation", "0 is not text or a number above 0"),
        ({"validation": True}, "splits.validation", "true is not text or a number"),
        ({"train": "train", "valid": "x"}, "splits.valid", "unknown key; did you mean validation?"),
        ({"train": "trian"}, "splits.train", "did you mean train?"),
    ],
)
def test_a_split_that_cannot_be_is_told(splits: dict, path: str, message: str) -> None:
    assert message in errors_of(changed(datasets__words__splits=splits))[f"datasets.words.{path}"]


def test_files_that_no_split_reads_are_told() -> None:
    message = errors_of(changed(datasets__words__data_files={"train": "a", "valid": "b"}))["datasets.words.splits"]
    assert message == "no split reads data_files.valid; for instance validation: valid under splits would"


def test_conll_columns_name_the_tokens_and_hold_the_labels() -> None:
    conll = {"path": "conll", "data_files": "a.conll"}
    assert load_config(changed(datasets__words=conll)).datasets["words"].tokens_column == "tokens"
    columns = {**conll, "columns": ["form", "pos", "tags"]}
    assert load_config(changed(datasets__words=columns)).datasets["words"].tokens_column == "form"
    errors = errors_of(changed(datasets__words={**columns, "columns": ["form", "ner_tags", "ner_tags"]}))
    assert errors["datasets.words.columns[2]"] == "'ner_tags' is given twice"
    assert "did you mean ner_tags?" in errors["tasks.slots.label_column"]


def test_the_text_column_of_plain_text_is_text() -> None:
    config = load_config(changed(datasets__reviews={"path": "text", "data_files": "a.txt"}))
    assert config.datasets["reviews"].text_column == "text"


@pytest.mark.parametrize(
    ("csv", "path"),
    [({"sep": "ab"}, ".sep"), ({"encoding": "utf9"}, ".encoding"), ({"names": ["a", "a"]}, ".names"), ({"s": 1}, ".s")],
)
def test_csv_options_are_checked(csv: dict, path: str) -> None:
    dataset = {**TEXT, "path": "csv", "csv": csv}
    assert list(errors_of(changed(datasets__reviews=dataset))) == [f"datasets.reviews.csv{path}"]


def test_a_score_that_no_task_counts_in_is_refused() -> None:
    run = changed(tasks__topic__score_weight=0, tasks__slots__score_weight=0)
    assert list(errors_of(run)) == ["tasks.slots.score_weight"]


def test_a_misspelt_key_is_not_missing_as_well() -> None:
    run = changed(datasets__words__token_column="tokens", datasets__words__tokens_column=GONE)
    assert list(errors_of(run)) == ["datasets.words.token_column"]


def test_a_bad_value_is_not_missing_as_well() -> None:
    assert list(errors_of(changed(datasets__words__tokens_column=3))) == ["datasets.words.tokens_column"]


def test_sections_that_are_no_mappings_hide_no_error_elsewhere() -> None:
    run = changed(datasets=["reviews"], sampling=3, tasks__topic__metrics=["acc"], training=None)
    assert list(errors_of(run)) == ["datasets", "tasks.topic.metrics[0]", "training", "sampling"]
    assert list(errors_of(changed(tasks=[], training__seed=-1))) == ["tasks", "training.seed"]
