"""Run files as plain values: YAML 1.2, overrides, files that cannot be read."""

from pathlib import Path
from typing import Any

import pytest

from hf_mtl.config import load_config
from hf_mtl.run_file import UnreadableFileError, parse_yaml
from tests.run_dicts import RUN, changed, errors_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1e5", 1e5),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("2024-05-01", "2024-05-01"),
        ("1:30", "1:30"),
        ("=", "="),
        ("012", 12),
        ("!!str 3", "3"),
        ('"\\t"', "\t"),
        ("[1, a, {b: null}]", [1, "a", {"b": None}]),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found, problems = parse_yaml(text)
    assert (found, problems) == (value, [])
    assert type(found) is type(value)


def test_a_version_line_does_not_bring_back_yaml_1_1() -> None:
    assert parse_yaml("%YAML 1.1\n---\na: no\n")[0] == {"a": "no"}


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!!binary aGk=", "!!set {a}", "!mine x"])
def test_a_tag_makes_nothing_and_is_an_error_with_its_line(tag: str) -> None:
    value, problems = parse_yaml(f"b: 1\na: {tag}")
    assert value == {"b": 1, "a": None}
    [(place, message)] = problems
    assert place == ("a",)
    assert message.startswith("line 2: tag !")


def test_every_repeated_key_is_an_error_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "encoder: a\nencoder: b\ndatasets:\n  d: {path: u/d, text_column: t}\n"
        "tasks:\n  t:\n    task_type: text-classification\n    dataset: d\n    label_column: l\n    dataset: d\n"
        "training: {output_dir: o, seed: 1.5}\n"
    )
    assert errors_of(path) == {
        "encoder": "line 2: the key is given twice (first in line 1)",
        "tasks.t.dataset": "line 10: the key is given twice (first in line 8)",
        "training.seed": "1.5 is not a whole number",
    }


def test_an_alias_stands_for_its_value_and_cannot_stand_in_itself() -> None:
    assert parse_yaml("a: &x [1]\nb: *x") == ({"a": [1], "b": [1]}, [])
    value, problems = parse_yaml("a: &x [*x]")
    assert value == {"a": [None]}
    assert "alias" in problems[0][1]


def test_aliases_that_unfold_without_end_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(UnreadableFileError, match="unfold"):
        parse_yaml("\n".join(lines))


def test_merge_keys_and_keys_that_are_no_words_are_told() -> None:
    value, problems = parse_yaml("a: &x {b: 1}\nc:\n  <<: *x\n[d]: 2\n")
    assert value == {"a": {"b": 1}, "c": {}}
    assert [place for place, _ in problems] == [("c", "<<"), ()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; a run file has at least encoder, datasets, tasks and training"),
        (b"# only a comment\n", "empty; a run file has at least encoder, datasets, tasks and training"),
        (b"- a\n", "a list, not a mapping of keys; a run file begins like `encoder: …`"),
        (b"hello", "'hello', not a mapping of keys; a run file begins like `encoder: …`"),
        (b"a: 1\nb: \xe9t\xe9\n", "line 2: not UTF-8; save the file as UTF-8"),
        (b"a: [1", "not YAML: line 1: expected ',' or ']', but got '<stream end>' while parsing a flow sequence"),
        (b"a: 1\n---\nb: 2\n", "not YAML: line 2: expected a single document in the stream but found another document"),
        (b"a: \x01", "not YAML: unacceptable character #x0001: special characters are not allowed"),
        (b"a: " + b"[" * 500, "not YAML that can be read: nested too deeply"),
    ],
)
def test_a_file_that_is_no_run_file_is_refused_with_one_clear_message(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    assert errors_of(path) == {"": message}


def test_a_tab_before_a_key_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("a:\n\tb: 1\n")
    assert errors_of(path)[""].endswith("indent with blanks, not with tabs")


def test_a_missing_file_and_a_folder_are_told_by_name(tmp_path: Path) -> None:
    assert errors_of(tmp_path / "nope.yaml") == {"": "no such file"}
    assert errors_of(str(tmp_path)) == {"": "a folder; name the run file in it"}


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert set(errors_of(path)) == {"a", "b", "encoder", "datasets", "tasks", "training"}


def test_overrides_set_single_keys_with_yaml_values() -> None:
    overrides = [
        "training.learning_rate=1e-4",
        "training.bf16=true",
        "sampling.batch=single_task",
        "tasks.topic.metrics=[accuracy, f1_macro]",
        "encoder=user/a=b",
        "datasets.reviews.csv=",
    ]
    config = load_config(RUN, [*overrides, "encoder=other"])
    assert config.training.learning_rate == 1e-4
    assert config.training.bf16 is True
    assert config.sampling.batch == "single_task"
    assert config.tasks["topic"].metrics == ["accuracy", "f1_macro"]
    assert config.encoder == "other"
    assert load_config(RUN, ["encoder=user/a=b"]).encoder == "user/a=b"


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("training.lerning_rate=1", "training.lerning_rate", "unknown key; did you mean learning_rate?"),
        ("trainin.seed=1", "trainin", "unknown key; did you mean training?"),
        ("training.seed", "", "override 'training.seed': write KEY=VALUE, as in training.learning_rate=1e-4"),
        ("=1", "", "override '=1': write KEY=VALUE, as in training.learning_rate=1e-4"),
        ("training..seed=1", "", "override 'training..seed=1': write KEY=VALUE, as in training.learning_rate=1e-4"),
        ("training.seed=a", "training.seed", "'a' is not a whole number"),
        ("training.seed.x=1", "training.seed.x", "cannot be set: training.seed is 1, not a mapping"),
        ("tasks.topik.loss_weight=2", "tasks.topik", "overridden, but not in the run file; did you mean topic?"),
    ],
)
def test_a_bad_override_is_an_error_like_any_other(override: str, path: str, message: str) -> None:
    assert errors_of(changed(training__seed=1), override) == {path: message}


def test_an_override_that_is_not_yaml_is_told_beside_the_other_errors() -> None:
    errors = errors_of(changed(max_length=1), "training.seed=[1", "encoder=!!python/name:os.system x")
    assert list(errors) == ["encoder", "training.seed", "max_length"]
    assert "override 'training.seed=[1': not YAML" in errors["training.seed"]
