"""Anything at all as a run file or a data file ends in success or in one message: never in another exception.

`HF_MTL_FULL_TESTS=1` tries 10,000 examples of each.
"""

import copy
import gzip
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mtl.config import load_config
from hf_mtl.config_keys import RunConfig
from hf_mtl.data.preparation import prepare
from hf_mtl.errors import ConfigError, DataError
from tests.tiny import tiny_tokenizer

EXAMPLES = 10_000 if os.environ.get("HF_MTL_FULL_TESTS") else 150
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
RUN: dict[str, Any] = {
    "encoder": "user/encoder",
    "max_length": 16,
    "datasets": {
        "d": {"path": "csv", "data_files": {"train": "a.csv"}, "text_column": "text", "csv": {"sep": ";"}},
        "w": {"path": "json", "data_files": "b.jsonl", "tokens_column": "tokens", "splits": {"validation": 0.1}},
    },
    "tasks": {
        "topic": {"task_type": "text-classification", "dataset": "d", "label_column": "topic", "metrics": ["accuracy"]},
        "names": {
            "task_type": "token-classification",
            "dataset": "w",
            "label_column": "tags",
            "label_list": ["a", "b"],
        },
    },
    "sampling": {"strategy": "weights", "weights": {"d": 1, "w": 2.5}},
    "lora": {"scope": "both", "train_encoder": True, "target_modules": ["query"]},
    "sharing": {"private_layers": 1, "groups": [["topic"], ["names"]]},
    "training": {"output_dir": "out", "learning_rate": 1e-4, "freeze": {"layers": "0-1"}, "early_stopping": "overall"},
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["auto", "topic", "*", "["]),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where something stands in a run file."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


PLACES = [place for place in places(RUN) if place]


@st.composite
def run_files(draw) -> Any:
    """A good run file of which a few things are gone, otherwise, or more."""
    run = copy.deepcopy(RUN)
    for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4)):
        holder = run
        try:
            for key in place[:-1]:
                holder = holder[key]
            if draw(st.booleans()):
                holder[place[-1]] = draw(JUNK)
            elif draw(st.booleans()):
                del holder[place[-1]]
            elif isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(JUNK)
        except (KeyError, IndexError, TypeError):
            continue
    return run


def loads_or_refuses(source: Any) -> None:
    told = None
    try:
        assert isinstance(load_config(source), RunConfig)
    except ConfigError as error:
        told = str(error)
    assert told is None or told.strip()


@FUZZ
@given(run_files())
def test_a_run_of_whatever_values_is_read_or_refused(run):
    loads_or_refuses(run)


@FUZZ
@given(JUNK)
def test_what_is_no_run_at_all_is_refused(run):
    if isinstance(run, dict):
        loads_or_refuses(run)


@FUZZ
@given(
    st.one_of(
        st.text(max_size=200).map(str.encode),
        st.binary(max_size=200),
        run_files().map(lambda run: repr(run).encode("utf-8", "surrogatepass")),
    )
)
def test_a_file_of_whatever_bytes_is_a_run_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.yaml")
        path.write_bytes(content)
        loads_or_refuses(path)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


ROWS = st.lists(
    st.dictionaries(st.sampled_from(["text", "label", "tokens", "tags", "spans", "x"]), JUNK, max_size=5), max_size=6
)
LINES = ROWS.map(lambda rows: "\n".join(json.dumps(row) for row in rows))
CELLS = st.lists(
    st.lists(st.sampled_from(["text", "label", 'a "b"', '"', "", "é", "[1]", "O B-x", "\t", "1.5"]), max_size=4)
)
FILES = {
    "json": st.one_of(
        LINES, ROWS.map(json.dumps), ROWS.map(lambda rows: json.dumps({"data": rows})), st.text(max_size=80)
    ),
    "csv": st.one_of(
        CELLS.map(lambda rows: "text,label,tokens,tags\n" + "\n".join(",".join(row) for row in rows)),
        st.text(max_size=80),
    ),
    "text": st.text(max_size=80),
    "conll": st.one_of(
        CELLS.map(lambda rows: "\n".join(" ".join(cell.replace(" ", "_") for cell in row) for row in rows)),
        st.text(max_size=80),
    ),
}
TASKS: list[dict[str, Any]] = [
    {"task_type": "text-classification", "label_column": "label"},
    {"task_type": "text-classification", "label_column": "label", "problem_type": "multi_label_classification"},
    {"task_type": "text-classification", "label_column": "label", "problem_type": "regression"},
    {"task_type": "text-classification", "label_column": "label", "normalise_labels": True},
    {"task_type": "token-classification", "label_column": "tags"},
    {"task_type": "token-classification", "spans_column": "spans"},
]


def reads_or_refuses(kind: str, name: str, content: bytes, task: dict[str, Any], options: dict[str, Any]) -> None:
    columns = (
        {"text_column": "text"}
        if "spans_column" in task or "tags" not in task.values()
        else {"tokens_column": "tokens"}
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        dataset = {"path": kind, "data_files": name, **columns, **options}
        told = None
        try:
            config = load_config(
                {
                    "encoder": "user/encoder",
                    "max_length": 16,
                    "datasets": {"d": dataset},
                    "tasks": {"t": task | {"dataset": "d"}},
                    "training": {"output_dir": "out"},
                    "base_dir": folder,
                }
            )
            found = prepare(config, tiny_tokenizer("wordpiece", 16))
            assert len(found.sequences["d"]["train"])
        except (ConfigError, DataError) as error:
            told = str(error)
        assert told is None or told.strip()


CHOICES = st.fixed_dictionaries(
    {},
    optional={"drop_duplicates": st.booleans(), "drop_conflicts": st.booleans(), "min_characters": st.integers(1, 3)},
)


@FUZZ
@given(st.sampled_from(sorted(FILES)), st.data(), st.sampled_from(TASKS), CHOICES)
def test_rows_of_whatever_values_are_read_or_refused(kind, data, task, options):
    text = data.draw(FILES[kind])
    reads_or_refuses(kind, "rows.txt", text.encode("utf-8", "surrogatepass"), task, options)


@FUZZ
@given(
    st.sampled_from(sorted(FILES)),
    st.binary(max_size=200),
    st.sampled_from(TASKS),
    st.sampled_from(["rows.x", "rows.x.gz"]),
)
def test_a_file_of_whatever_bytes_is_read_or_refused(kind, content, task, name):
    reads_or_refuses(kind, name, content, task, {})


@FUZZ
@given(LINES, st.integers(0, 400), st.sampled_from(TASKS))
def test_a_packed_file_cut_anywhere_is_read_or_refused(lines, end, task):
    reads_or_refuses("json", "rows.jsonl.gz", gzip.compress(lines.encode("utf-8", "surrogatepass"))[:end], task, {})
