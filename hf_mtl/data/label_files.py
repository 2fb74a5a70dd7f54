"""Files of label names: what `label_list` of a task may name in place of a list."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from hf_mtl.config_keys import TaskConfig
from hf_mtl.errors import DataError
from hf_mtl.tasks.labels import label_name, shown

_HALF = re.compile("[\ud800-\udfff]")


def with_label_list(name: str, entry: TaskConfig, base_dir: str | None, *, settled: bool) -> TaskConfig:
    """The entry with the names of a `label_list` file in place of the file's name."""
    if not isinstance(entry.label_list, str):
        return entry
    if settled and not _path(entry.label_list, base_dir).exists():
        # A published model knows its labels; the file only said which tags integers stand for.
        return entry.model_copy(update={"label_list": None})
    return entry.model_copy(update={"label_list": read_label_list(name, entry.label_list, base_dir)})


def read_label_list(task: str, file: str, base_dir: str | None) -> list[Any]:
    """The names in a JSON file that `label_list` gives.

    Raises:
        DataError: if it is not a JSON list of names, each once.
    """
    try:
        names = json.loads(_path(file, base_dir).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"tasks.{task}.label_list: {file} cannot be read as JSON ({error})") from error
    if not isinstance(names, list) or not names or not all(isinstance(label, (str, int)) for label in names):
        raise DataError(f'tasks.{task}.label_list: {file} is not a list of label names; write ["a", "b", …]')
    if half := next(filter(_HALF.search, map(label_name, names)), None):
        raise DataError(f"tasks.{task}.label_list: {file} has {ascii(half)}, half of a surrogate pair; mend the file")
    twice = [label for label, count in Counter(map(label_name, names)).items() if count > 1 or not label]
    if twice:
        raise DataError(f"tasks.{task}.label_list: {file} has {shown(twice[0])} twice, or an empty name; mend the file")
    return names


def _path(file: str, base_dir: str | None) -> Path:
    return Path(base_dir or ".", os.path.expanduser(file))
