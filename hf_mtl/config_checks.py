"""Checks of a run that take more than one key. They run on whatever could be read, beside the errors of single keys.

A value that could not be read is `UNREAD`; no check speaks of a key as missing when it is there but bad.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hf_mtl.config_defaults import FILE_FORMATS, SPLITS
from hf_mtl.config_keys import DatasetConfig, RunConfig, SamplingConfig, TaskConfig, TrainingConfig
from hf_mtl.config_lora import lora_problems
from hf_mtl.config_messages import Problem, at, listed, nearest, shown, twice, use
from hf_mtl.config_section import UNREAD
from hf_mtl.config_sharing import sharing_problems
from hf_mtl.config_task_checks import task_problems

SUFFIXES = {
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
    ".txt": "text", ".conll": "conll", ".conllu": "conll",
}  # fmt: skip
HUB_ID = re.compile(r"([\w.-]+/)?[\w.-]+", re.ASCII)
RESERVED_NAMES = frozenset({"encoder", "heads", "shared"})
MODULE_NAMES = frozenset({
    "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear",
    "compile", "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer",
    "get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "items", "keys", "load_state_dict",
    "modules", "mtia", "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "pop",
    "register_backward_hook", "register_buffer", "register_forward_hook", "register_forward_pre_hook",
    "register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook", "register_module", "register_parameter", "register_state_dict_post_hook",
    "register_state_dict_pre_hook", "requires_grad_", "set_extra_state", "set_submodule", "share_memory", "smart_apply",
    "state_dict", "to", "to_empty", "train", "training", "type", "update", "values", "xpu", "zero_grad",
})  # fmt: skip
"""Attributes of `torch.nn.ModuleDict`, which cannot hold a module under these names; `smart_apply` is transformers'."""


def cross_problems(run: RunConfig, raw: Mapping[str, Any], *, in_file: bool) -> Iterator[Problem]:
    """What is wrong between keys.

    Args:
        run: what could be read.
        raw: the run as given.
        in_file: whether it comes from a file, where rows in memory cannot be meant.
    """
    datasets = run.datasets if isinstance(run.datasets, dict) else {}
    tasks = run.tasks if isinstance(run.tasks, dict) else {}
    for name, dataset in datasets.items():
        if dataset is not UNREAD:
            missing = in_file and "path" not in raw["datasets"][name]
            yield from at(("datasets", name), _dataset_problems(dataset, missing))
            yield from at(("datasets", name), _column_problems(dataset, _types(tasks, name)))
    for name, task in tasks.items():
        yield from at(("tasks", name), _name_problems(name))
        if task is not UNREAD:
            yield from at(("tasks", name), task_problems(task, datasets))
    yield from _use_problems(datasets, tasks)
    if run.sampling is not UNREAD:
        yield from at(("sampling",), _sampling_problems(run.sampling, datasets))
    if run.training is not UNREAD:
        yield from at(("training",), _training_problems(run.training))
    freeze = UNREAD if run.training is UNREAD else run.training.freeze
    if run.lora not in (None, UNREAD):
        yield from lora_problems(run.lora, len(tasks), freeze)
    if run.sharing is not UNREAD:
        types = {name: UNREAD if task is UNREAD else task.task_type for name, task in tasks.items()}
        yield from sharing_problems(run.sharing, types, run.lora, freeze)


def _types(tasks: Mapping[str, TaskConfig], dataset: str) -> list[tuple[str, Any]]:
    """(name, task type) of the tasks on a data set, without those that find their words by spans."""
    own = [(name, task) for name, task in tasks.items() if task is not UNREAD and task.dataset == dataset]
    return [(name, task.task_type) for name, task in own if task.spans_column is None]


def _use_problems(datasets: Mapping[str, DatasetConfig], tasks: Mapping[str, TaskConfig]) -> Iterator[Problem]:
    used = {UNREAD if task is UNREAD else task.dataset for task in tasks.values()}
    # A data set may seem unused only because its name is misspelt in a task; that error is enough.
    if tasks and used <= set(datasets):
        for name in datasets:
            if name not in used:
                yield ("datasets", name), "no task uses it; remove it, or name it as the dataset of a task"
    if tasks and all(task is not UNREAD and task.score_weight == 0 for task in tasks.values()):
        yield ("tasks", list(tasks)[-1], "score_weight"), "0 for every task; at least one must count in the score"


def _name_problems(name: Any) -> Iterator[Problem]:
    if not isinstance(name, str):
        return
    if not name.isidentifier() or name.startswith("_"):
        yield (), "not a task name; use letters of any script, digits and _, and begin with a letter"
    elif name in RESERVED_NAMES | MODULE_NAMES:
        yield (), f"not a task name: parts of the model are called so; use another, such as {name}_task"


def _dataset_problems(dataset: DatasetConfig, path_is_missing: bool) -> Iterator[Problem]:
    """Paths, files and splits."""
    path, formats = dataset.path, listed(FILE_FORMATS)
    if path_is_missing:
        yield ("path",), f"missing: a Hub data set, or {formats} for files of your own"
    if path in FILE_FORMATS:
        if dataset.data_files is None:
            yield ("data_files",), f"missing: path {path} reads files, for instance {{train: train.{path}}}"
        for key in ("name", "revision"):
            if getattr(dataset, key) is not None:
                yield (key,), f"only for a Hub data set; the path is {path}"
    elif isinstance(path, str):
        kind = next((kind for suffix, kind in SUFFIXES.items() if path.removesuffix(".gz").endswith(suffix)), None)
        if kind:
            yield ("path",), f"{shown(path)} looks like a file; write path: {kind} and data_files: {{train: {path}}}"
        elif dataset.data_files is not None:
            near = nearest(path, FILE_FORMATS)
            hint = f"did you mean path: {near}?" if near else f"{shown(path)} is taken for a Hub data set"
            yield ("data_files",), f"only with path {formats}; {hint}"
    elif path is None and dataset.data_files is not None and not path_is_missing:
        yield ("data_files",), f"only with path {formats}; without a path the rows are in memory"
    for key, needed in (("csv", "csv"), ("columns", "conll")):
        if getattr(dataset, key) is not None and path not in (needed, UNREAD) and not path_is_missing:
            yield (key,), f"only with path {needed}"
    least, most = dataset.min_characters, dataset.max_characters
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield ("min_characters",), f"{least} is more than max_characters, {most}"
    if isinstance(dataset.splits, dict):
        yield from at(("splits",), _split_problems(dataset, dataset.splits))


def _split_problems(dataset: DatasetConfig, splits: Mapping[Any, str | float]) -> Iterator[Problem]:
    shares = {name: source for name, source in splits.items() if isinstance(source, int | float)}
    if "train" in shares:
        yield ("train",), f"{shares.pop('train')} is a share; shares are cut from train, which needs a name"
    if sum(shares.values()) >= 1:
        yield (), f"the shares cut from train add up to {sum(shares.values()):g}; they must stay below 1"
    if dataset.path not in FILE_FORMATS or not isinstance(dataset.data_files, dict):
        return
    for name, source in splits.items():
        if isinstance(source, str) and source not in dataset.data_files:
            yield (name,), f"{shown(source)} is not in data_files; {use(source, list(dataset.data_files))}"
    for name in dataset.data_files:
        if name not in splits.values() and UNREAD not in splits.values():
            split = nearest(name, SPLITS) or "validation"
            yield (), f"no split reads data_files.{name}; for instance {split}: {name} under splits would"


def _column_problems(dataset: DatasetConfig, tasks: list[tuple[str, Any]]) -> Iterator[Problem]:
    text, tokens, pair = dataset.text_column, dataset.tokens_column, dataset.text_pair_column
    tagging = next((name for name, task_type in tasks if task_type == "token-classification"), None)
    if tagging and tokens is None:
        yield (
            ("tokens_column",),
            (f"missing: task {tagging} is token-classification and needs the column of the words, or a spans_column"),
        )
    elif text is None and pair is not None:
        yield ("text_pair_column",), "needs text_column, the first text of the pair"
    elif text is None and tokens is None:
        yield ("text_column",), "missing: name the column of the text here, or that of its words in tokens_column"
    if dataset.token_separator != " " and tokens is None:
        yield ("token_separator",), "only with tokens_column"
    if isinstance(dataset.columns, list) and dataset.path == "conll":
        yield from at(("columns",), twice(dataset.columns))
        for key in ("text_column", "tokens_column", "text_pair_column"):
            column = getattr(dataset, key)
            if isinstance(column, str) and column not in dataset.columns:
                yield (key,), f"{shown(column)} is not in columns; {use(column, dataset.columns)}"


def _sampling_problems(sampling: SamplingConfig, datasets: Mapping[str, DatasetConfig]) -> Iterator[Problem]:
    for key, strategy in (("temperature", "temperature"), ("weights", "weights")):
        if sampling.strategy is UNREAD:
            return
        if sampling.strategy == strategy and getattr(sampling, key) is None:
            example = "2" if key == "temperature" else "{" + ", ".join(f"{name}: 1" for name in datasets) + "}"
            yield (key,), f"missing: strategy {strategy} needs it, for instance {key}: {example}"
        if sampling.strategy != strategy and getattr(sampling, key) is not None:
            yield (key,), f"only with strategy {strategy}; the strategy is {sampling.strategy}"
    if isinstance(sampling.weights, dict) and datasets:
        for name in sampling.weights:
            if name not in datasets:
                yield ("weights", name), f"not a data set; {use(name, list(datasets))}"
        for name in datasets:
            if name not in sampling.weights:
                yield ("weights", name), "missing: every data set has a weight"


def _training_problems(training: TrainingConfig) -> Iterator[Problem]:
    for kind in ("eval", "save"):
        strategy, steps = getattr(training, f"{kind}_strategy"), getattr(training, f"{kind}_steps")
        if strategy == "steps" and steps is None:
            yield (f"{kind}_steps",), f"missing: {kind}_strategy steps needs it"
        if strategy in ("no", "epoch") and steps is not None:
            yield (f"{kind}_steps",), f"only with {kind}_strategy steps; it is {strategy}"
    if training.max_steps == 0:
        yield ("max_steps",), "0 is no length of training; use -1 to go by num_train_epochs, or a number of at least 1"
    if isinstance(training.hub_model_id, str) and not HUB_ID.fullmatch(training.hub_model_id):
        yield ("hub_model_id",), f"{shown(training.hub_model_id)} is not the name of a repository; write user/name"
    if training.bf16 is True and training.fp16 is True:
        yield ("fp16",), "not together with bf16; choose one of them"
    if training.early_stopping in ("overall", "per_task") and training.eval_strategy == "no":
        yield ("early_stopping",), "needs evaluations; eval_strategy is no"
    if training.early_stopping is None:
        for key, default in (("early_stopping_patience", 1), ("early_stopping_threshold", 0.0)):
            if getattr(training, key) not in (default, UNREAD):
                yield (key,), "only with early_stopping overall or per_task"
