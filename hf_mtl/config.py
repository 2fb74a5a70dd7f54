"""The run file: YAML → `RunConfig`, every error of the file at once. Imports neither torch nor datasets."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hf_mtl import sources
from hf_mtl.config_checks import cross_problems
from hf_mtl.config_defaults import resolved_dataset, resolved_task
from hf_mtl.config_keys import DatasetConfig, RunConfig, SamplingConfig, TaskConfig, TrainingConfig
from hf_mtl.config_lora import LoraSection
from hf_mtl.config_messages import Problem, by_place, key_path, schema_problems
from hf_mtl.config_section import UNREAD, Section, readable
from hf_mtl.config_sharing import SharingSection
from hf_mtl.errors import ConfigError
from hf_mtl.run_file import UnreadableFileError, apply_overrides, plain_values, read_run_file


def load_config(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Reads and checks a run.

    Args:
        source: a run file, or its content as a dict.
        overrides: single keys to set, such as `"training.learning_rate=1e-4"`.

    Raises:
        ConfigError: with every error, in the order of the file.
    """
    problems: list[Problem]
    if isinstance(source, Mapping):
        name, folder = "run config", os.getcwd()
        raw, problems = plain_values(source)
    else:
        name, folder = os.fspath(source), os.path.dirname(os.path.abspath(source))
        try:
            raw, problems = read_run_file(Path(source))
        except UnreadableFileError as error:
            raise ConfigError(name, [("", str(error))]) from None
    problems += apply_overrides(raw, overrides)
    given = raw.get("base_dir")
    if given is None or isinstance(given, str):
        raw["base_dir"] = os.path.abspath(os.path.join(folder, os.path.expanduser(given or "")))
    problems += _problems(raw, {place for place, _ in problems if place}, in_file=not isinstance(source, Mapping))
    if problems:
        raise ConfigError(name, [(key_path(place), message) for place, message in by_place(raw, problems)])
    return RunConfig.model_validate(raw)


def _problems(raw: dict[Any, Any], told: set[tuple[Any, ...]], *, in_file: bool) -> list[Problem]:
    """Errors of single keys, save those in places already `told`, and errors between keys."""
    problems: list[Problem] = []
    meant: list[tuple[Any, ...]] = []
    try:
        RunConfig.model_validate(raw)
    except ValidationError as error:
        problems, meant = schema_problems(error, RunConfig, raw)
    problems = [problem for problem in problems if problem[0] not in told]
    places = [place for place, _ in problems] + meant + list(told)

    def part(section: type[Section], values: Any, *prefix: Any) -> Any:
        depth = len(prefix)
        return readable(section, values, [place[depth:] for place in places if place[:depth] == prefix != place])

    def parts(section: type[Section], resolve: Any, key: str) -> Any:
        values = raw.get(key)
        named = values.items() if isinstance(values, dict) else ()
        return {name: part(section, resolve(value), key, name) for name, value in named}

    run = RunConfig.model_construct(
        datasets=parts(DatasetConfig, resolved_dataset, "datasets"),
        tasks=parts(TaskConfig, resolved_task, "tasks"),
        sampling=part(SamplingConfig, raw.get("sampling", {}), "sampling"),
        sharing=part(SharingSection, raw.get("sharing", {}), "sharing"),
        lora=None if raw.get("lora") is None else part(LoraSection, raw["lora"], "lora"),
        training=part(TrainingConfig, raw["training"], "training") if "training" in raw else UNREAD,
    )
    return problems + list(cross_problems(run, raw, in_file=in_file))


def encoder_source(config: RunConfig) -> str:
    """What `from_pretrained` takes for the run's encoder: an absolute folder, or a Hub id.

    Raises:
        UserError: if a package or folder is missing.
    """
    return sources.encoder_source(config.encoder, config.base_dir)
