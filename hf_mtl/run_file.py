"""Run files as plain values: reading YAML, overriding single keys, writing.

Files are YAML 1.2: `2e-4` is a number, `no` and `2024-05-01` are words. Values are text, numbers, true/false, null,
lists and mappings; tags that make anything else are refused, so a file can run nothing.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver

from hf_mtl.config_messages import Place, Problem, nearest, shown

TAG = "tag:yaml.org,2002:"
NUMBERS = ("int", "float")
WORDS = ("str", "timestamp", "value", "merge")
"""Scalars that stay text (the last three are no types of YAML 1.2)."""
MOST_VALUES = 200_000
"""A file whose aliases unfold to more is refused."""


class UnreadableFileError(Exception):
    """The file cannot be read as YAML at all; the message says why."""


class _Resolver(VersionedResolver):
    """YAML 1.2 whatever a `%YAML 1.1` line says."""

    @property
    def processing_version(self) -> tuple[int, int]:
        return (1, 2)


def read_run_file(path: Path) -> tuple[dict[Any, Any], list[Problem]]:
    """The file's mapping, and what is wrong with single values.

    Raises:
        UnreadableFileError: if there is no mapping to be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UnreadableFileError("no such file") from None
    except IsADirectoryError:
        raise UnreadableFileError("a folder; name the run file in it") from None
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UnreadableFileError(f"line {line}: not UTF-8; save the file as UTF-8") from None
    value, problems = parse_yaml(text)
    if value is None and not problems:
        raise UnreadableFileError("empty; a run file has at least encoder, datasets, tasks and training")
    if not isinstance(value, dict):
        raise UnreadableFileError(f"{shown(value)}, not a mapping of keys; a run file begins like `encoder: …`")
    return value, problems


def parse_yaml(text: str) -> tuple[Any, list[Problem]]:
    """The value of a YAML text, and what is wrong with single values in it.

    Raises:
        UnreadableFileError: if the text is not YAML.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    try:
        node = yaml.compose(text)
        reader = _NodeReader(yaml)
        return (None if node is None else reader.value(node, ())), reader.problems
    except RecursionError:
        raise UnreadableFileError("not YAML that can be read: nested too deeply") from None
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        words = [error.problem, error.context] if "while" in (error.context or "") else [error.context, error.problem]
        hint = "; indent with blanks, not with tabs" if "'\\t'" in str(error.problem) else ""
        raise UnreadableFileError(f"not YAML: {line}{' '.join(filter(None, words))}{hint}") from None
    except YAMLError as error:
        raise UnreadableFileError(f"not YAML: {str(error).splitlines()[0]}") from None


class _NodeReader:
    """YAML nodes → plain values; what is wrong is noted with its line, and reading goes on."""

    def __init__(self, yaml: YAML) -> None:
        self.constructor = yaml.constructor
        self.problems: list[Problem] = []
        self.open: list[Node] = []
        self.count = 0

    def value(self, node: Node, place: tuple[Any, ...]) -> Any:
        self.count += 1
        if self.count > MOST_VALUES:
            raise UnreadableFileError(f"its aliases unfold to more than {MOST_VALUES} values")
        if isinstance(node, ScalarNode):
            return self.scalar(node, place)
        kind = "map" if isinstance(node, MappingNode) else "seq"
        if str(node.tag) != TAG + kind:
            return self.refuse_tag(node, place)
        if any(node is other for other in self.open):
            return self.note(place, node, "an alias of a value that it is part of")
        self.open.append(node)
        try:
            if isinstance(node, MappingNode):
                return self.mapping(node, place)
            return [self.value(item, (*place, Place(index))) for index, item in enumerate(node.value)]
        finally:
            self.open.pop()

    def mapping(self, node: MappingNode, place: tuple[Any, ...]) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.note(place, key_node, "a list or mapping as a key; a key is a word")
                continue
            if str(key_node.tag) == TAG + "merge":
                self.note((*place, "<<"), key_node, "YAML 1.2 has no merge key; write the keys out")
                continue
            key = self.scalar(key_node, place)
            if key in values:
                self.note((*place, key), key_node, f"the key is given twice (first in line {lines[key]})")
                continue
            lines[key] = key_node.start_mark.line + 1
            values[key] = self.value(value_node, (*place, key))
        return values

    def scalar(self, node: ScalarNode, place: tuple[Any, ...]) -> Any:
        tag = str(node.tag).removeprefix(TAG)
        if tag in WORDS or (tag in NUMBERS and "_" in node.value and not node.style):
            return self.text(node, place)
        if tag not in (*NUMBERS, "bool", "null"):
            return self.refuse_tag(node, place)
        try:
            return self.constructor.construct_object(node)
        except (ValueError, LookupError):
            return self.note(place, node, f"{shown(node.value)} cannot be read as {tag}")

    def text(self, node: ScalarNode, place: tuple[Any, ...]) -> Any:
        try:
            node.value.encode("utf-8")
        except UnicodeEncodeError:
            return self.note(place, node, "half of a character (a lone surrogate)")
        return node.value

    def refuse_tag(self, node: Node, place: tuple[Any, ...]) -> None:
        self.note(place, node, f"tag {str(node.tag).replace(TAG, '!!')}; values are plain, without tags")

    def note(self, place: tuple[Any, ...], node: Node, message: str) -> None:
        self.problems.append((place, f"line {node.start_mark.line + 1}: {message}"))


def plain_values(value: Any, place: tuple[Any, ...] = ()) -> tuple[Any, list[Problem]]:
    """A copy of a dict given in Python, made of a YAML file's types (paths become text, tuples lists)."""
    problems: list[Problem] = []
    if isinstance(value, Mapping):
        copy: Any = {}
        for key, inner in value.items():
            copy[key], found = plain_values(inner, (*place, key))
            problems += found
        return copy, problems
    if isinstance(value, list | tuple):
        copy = []
        for index, inner in enumerate(value):
            plain, found = plain_values(inner, (*place, Place(index)))
            copy.append(plain)
            problems += found
        return copy, problems
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, bool | int | float):
        return value, problems
    if isinstance(value, str):
        return str.__str__(value), problems  # the words themselves of a str that is a member of an Enum
    return None, [(place, f"a {type(value).__name__}; use text, numbers, true/false, null, lists and mappings")]


def apply_overrides(raw: dict[Any, Any], overrides: Sequence[str]) -> list[Problem]:
    """Sets keys of `raw`, in place, from texts such as `training.learning_rate=1e-4`."""
    problems: list[Problem] = []
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = tuple(key.strip() for key in path.split("."))
        if not equals or not all(keys):
            problems.append(((), f"override {shown(override)}: write KEY=VALUE, as in training.learning_rate=1e-4"))
            continue
        try:
            value, found = parse_yaml(text)
        except UnreadableFileError as error:
            problems.append((keys, f"override {shown(override)}: {error}"))
            continue
        problems += [((*keys, *place), f"override {shown(override)}: {message}") for place, message in found]
        problems += _set_key(raw, keys, value)
    return problems


def _set_key(raw: dict[Any, Any], keys: tuple[str, ...], value: Any) -> list[Problem]:
    at = raw
    for depth, key in enumerate(keys[:-1]):
        inner = at.get(key)
        if inner is None and keys[:depth] in (("datasets",), ("tasks",)):
            near = nearest(key, at)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(map(str, at))}"
            return [(keys[: depth + 1], f"overridden, but not in the run file; {hint}")]
        if inner is None:
            inner = at[key] = {}
        if not isinstance(inner, dict):
            return [(keys, f"cannot be set: {'.'.join(keys[: depth + 1])} is {shown(inner)}, not a mapping")]
        at = inner
    at[keys[-1]] = value
    return []


class _Representer(SafeRepresenter):
    """Quotes the line breaks of Unicode, which ruamel's writer loses otherwise."""

    def represent_str(self, data: str) -> ScalarNode:
        style = '"' if any(mark in data for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar(TAG + "str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def write_run_file(config: BaseModel, path: Path) -> None:
    """Writes a run as resolved, every default included; `load_config` reads an equal run from it."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        dump_yaml(config.model_dump(), file)


def dump_yaml(values: Mapping[str, Any], file: TextIO) -> None:
    """Writes plain values so that `parse_yaml` reads equal ones."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = sys.maxsize  # folded lines lose blanks
    yaml.Representer = _Representer
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None
    yaml.dump(values, file)
