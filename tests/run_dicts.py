"""Runs as dicts for the tests of the run file, and the errors of a changed one."""

import copy
from typing import Any

import pytest

from hf_mtl.config import load_config
from hf_mtl.errors import ConfigError

TEXT = {"path": "json", "data_files": {"train": "a.jsonl", "validation": "b.jsonl"}, "text_column": "text"}
WORDS = {"path": "json", "data_files": {"train": "c.jsonl"}, "tokens_column": "tokens"}
RUN: dict[str, Any] = {
    "encoder": "user/encoder",
    "datasets": {"reviews": TEXT, "words": WORDS},
    "tasks": {
        "topic": {"task_type": "text-classification", "dataset": "reviews", "label_column": "topic"},
        "slots": {"task_type": "token-classification", "dataset": "words", "label_column": "tags"},
    },
    "training": {"output_dir": "out"},
}
GONE = object()


def changed(**changes: Any) -> dict[str, Any]:
    """A good run with some keys changed: `tasks__topic__metrics=["f1"]`; GONE takes a key out."""
    run = copy.deepcopy(RUN)
    for path, value in changes.items():
        *sections, key = path.split("__")
        at = run
        for section in sections:
            at = at.setdefault(section, {})
        if value is GONE:
            del at[key]
        else:
            at[key] = value
    return run


def errors_of(source: Any, *overrides: str) -> dict[str, str]:
    """Key path → message."""
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert len(dict(caught.value.errors)) == len(caught.value.errors), caught.value
    return dict(caught.value.errors)
