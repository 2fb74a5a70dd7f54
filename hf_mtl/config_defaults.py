"""Keys of a run file that others imply, written out before it is checked: run.yaml then tells the whole run."""

from collections.abc import Mapping
from typing import Any

FILE_FORMATS = ("json", "csv", "parquet", "text", "conll")
SPLITS = ("train", "validation", "test")
MULTI = "multi_label_classification"


def resolved_dataset(raw: Any) -> Any:
    """The keys of a data set with those that others imply written out."""
    if not isinstance(raw, Mapping):
        return raw
    raw = dict(raw)
    path, files, columns = raw.get("path"), raw.get("data_files"), raw.get("columns")
    if path == "text" and raw.get("text_column") is None:
        raw["text_column"] = "text"
    if path == "conll" and raw.get("tokens_column") is None:
        raw["tokens_column"] = columns[0] if isinstance(columns, list) and columns else "tokens"
    if isinstance(files, str | list):
        raw["data_files"] = files = {"train": files}
    splits = raw.get("splits")
    if splits is None and isinstance(files, Mapping) and path in FILE_FORMATS:
        raw["splits"] = {name: name for name in SPLITS if name in files}
    elif isinstance(splits, Mapping) and "train" not in splits and any(isinstance(s, float) for s in splits.values()):
        raw["splits"] = {"train": "train", **splits}
    return raw


def resolved_task(raw: Any) -> Any:
    """The keys of a task with those that others imply written out."""
    if not isinstance(raw, Mapping) or raw.get("task_type") != "text-classification":
        return raw
    several = raw.get("threshold") is not None or raw.get("label_separator") is not None
    return {**raw, "problem_type": MULTI} if several and raw.get("problem_type") is None else raw
