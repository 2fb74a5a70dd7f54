"""Many objects of JSON lines at once, by column: only where it is plain that each line is a row with nothing wrong."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from hf_mtl.data.records import Cells

_BRACE, _LINE_END, _QUOTE, _ESCAPE = b'{\n"\\'
_BETWEEN = re.compile(r'" *(:?) *([^\s"\\{}\[\],:]*) *(,|\} *\n\{|) *"')
"""From a string's closing quote to the next opening one: a colon, a value that is no string, and what is behind it."""
MOST_VALUES = 1000
"""Values of a column that are no strings; with more of them it is faster to read every line."""


def plain_objects(piece: str) -> Mapping[str, Cells] | None:
    """The columns of lines of which each is an object of the same keys, nothing wrong with it; None for any others."""
    try:
        text = piece.removesuffix("\n")
        lines = text.encode()
    except UnicodeEncodeError:  # bad bytes
        return None
    characters = np.frombuffer(lines + b'\n{"', np.uint8)
    ends = np.flatnonzero(characters == _LINE_END)
    if not lines.startswith(b"{") or (characters[ends + 1] != _BRACE).any():
        return None
    quotes = np.flatnonzero(characters == _QUOTE)[:-1]
    if has_escapes := b"\\" in lines:
        quotes = quotes[~_escaped(characters)[quotes]]
    # What is below a blank may not stand in a string; lines with a tab between two of them are decoded.
    if not len(quotes) % (2 * len(ends)) and len(quotes) and np.count_nonzero(characters < 32) == len(ends):
        columns = _alike(characters, quotes, len(ends), has_escapes)
        if columns is not None:
            return columns
    return _decoded(text, len(ends), len(quotes))


def _escaped(characters: np.ndarray) -> np.ndarray:
    """Which characters stand behind an odd number of backslashes."""
    is_escape = characters == _ESCAPE
    found = np.flatnonzero(is_escape)
    begins = np.concatenate([[True], found[1:] != found[:-1] + 1])
    first = found[begins][np.cumsum(begins) - 1]
    result = np.zeros(len(characters), bool)
    result[found[(found - first) % 2 == 0] + 1] = True
    return result


def _alike(characters: np.ndarray, quotes: np.ndarray, count: int, has_escapes: bool) -> dict[str, Cells] | None:
    """The columns of lines that are alike up to the contents of their strings and a few other values; or None."""
    per_line = len(quotes) // count
    start = re.match(rb'\{ *"', characters[: quotes[0] + 1].tobytes())
    if start is None or start.end() != quotes[0] + 1:
        return None
    # One array of all: a string, what is between it and the next, the next, and so on.
    quotes[::2] += 1
    offsets = np.append(quotes, len(characters)).astype(np.int32)
    pieces = pa.StringArray.from_buffers(len(quotes), pa.py_buffer(offsets), pa.py_buffer(characters))
    every = np.arange(0, len(quotes), per_line)
    columns: dict[str, Cells] = {}
    place = 0
    while place < per_line:
        key = pieces.take(pa.array(every + place)).unique()
        if len(key) > 1 or "\\" in (name := key[0].as_py()) or name in columns:
            return None
        found = _between(pieces.take(pa.array(every + place + 1)))
        if found is None or found[0] != ":":
            return None
        values: Cells | None = found[1]
        behind = found[2]
        place += 2
        if values is None:
            if behind or place == per_line:
                return None
            values = _unescaped(pieces.take(pa.array(every + place)), has_escapes)
            found = _between(pieces.take(pa.array(every + place + 1)))
            if values is None or found is None or found[0] or found[1] is not None:
                return None
            behind = found[2]
            place += 2
        columns[name] = values
        if behind != ("," if place < per_line else "}\n{"):
            return None
    return columns


def _between(pieces: pa.StringArray) -> tuple[str, list[Any] | None, str] | None:
    """The sign behind a string, the values there if any, and what is behind these; None if lines differ in it."""
    found = pieces.dictionary_encode()
    if len(found.dictionary) > MOST_VALUES:
        return None
    matches = [_BETWEEN.fullmatch(piece) for piece in found.dictionary.to_pylist()]
    parts = [match.groups() for match in matches if match is not None]
    kinds = {(colon, bool(value), behind.replace(" ", "")) for colon, value, behind in parts}
    if len(parts) < len(matches) or len(kinds) > 1:
        return None
    colon, has_values, behind = kinds.pop()
    if not has_values:
        return colon, None, behind
    try:
        values = [json.loads(value) for _, value, _ in parts]
    except ValueError:
        return None
    return colon, [values[number] for number in found.indices.to_pylist()], behind


def _unescaped(cells: pa.StringArray, has_escapes: bool) -> Cells | None:
    """What JSON's strings say; None if one of them says nothing."""
    if not has_escapes:
        return cells
    texts = cells.to_pylist()
    written = '","'.join(texts)
    if "\\" not in written:
        return cells
    try:
        return json.loads(f'["{written}"]')
    except ValueError:
        return None


class _UnlikeError(ValueError):
    """Something that is no object of the same keys, or an object within one, whose keys nobody has counted."""


def _decoded(lines: str, count: int, quotes: int) -> dict[str, Sequence[Any]] | None:
    """The columns of lines that each begin with a brace, decoded in one go, as an array.

    If no object stands within another and there are as many as lines, each line is one. And if a key stood twice, more
    strings would be written than were read.
    """
    try:
        objects = json.loads("[" + lines.replace("\n", ",\n") + "]")
        if len(objects) != count or set(map(type, objects)) != {dict} or not objects[0]:
            return None
        names = list(objects[0])
        if list(chain.from_iterable(objects)) != names * count:
            return None
        columns: dict[str, Sequence[Any]] = {name: list(map(itemgetter(name), objects)) for name in names}
        strings = count * len(names) + sum(map(_strings, columns.values()))
    except (ValueError, RecursionError):
        return None
    return columns if quotes == 2 * strings else None


def _strings(values: Sequence[Any]) -> int:
    """How many strings stand in values of JSON."""
    types = set(map(type, values))
    if types == {str}:
        return len(values)
    if dict in types:
        raise _UnlikeError
    if list not in types:
        return list(map(type, values)).count(str) if str in types else 0
    inner = chain.from_iterable(cell for cell in values if type(cell) is list)
    return _strings(list(inner)) + _strings([cell for cell in values if type(cell) is not list])
