"""JSON files: an object a line, one array of objects, or {"data": [objects]}; read piece by piece."""

import json
from collections.abc import Callable, Collection, Iterator
from typing import Any, TextIO

from hf_mtl.data.files import SourceFile, bad_byte
from hf_mtl.data.json_blocks import plain_objects
from hf_mtl.data.records import SAVE_AS_UTF8, Block, Problems, ReadOptions, Record, kind, not_encoded, place
from hf_mtl.errors import DataError

CHUNK = 1 << 18
_LONGEST_TOKEN = 12
"""No word, escape or sign of JSON is longer: an error this near to the end of what was read may be its cut."""


def read_json(source: SourceFile, options: ReadOptions, problems: Problems) -> Iterator[Record | Block]:
    """The rows of a JSON file in any of its shapes (objects behind one another may span lines, too)."""
    rows = _ROWS.get(_shape(source, options.wanted))
    if rows is None:
        yield from _read_lines(source, problems)
        return
    with source.open_text() as text:
        stream = _Stream(text)
        row = 0
        try:
            for value in rows(stream, options.wanted):
                row += 1
                problem = None if isinstance(value, dict) else _NOT_OBJECT.format(kind(value))
                if (byte := bad_byte(stream.raw)) is not None:
                    problem = not_encoded(byte, "UTF-8", SAVE_AS_UTF8)
                if problem is None:
                    yield Record(row, 0, value)
                else:
                    problems.add(f"{place(source.name, row, stream.start_line)}: {problem}")
        except (ValueError, RecursionError) as error:
            where = place(source.name, row + 1, stream.line_of(error))
            raise DataError(
                f"{where}: {not_json(error, stream.buffer, of_line=False)}; what follows is not read"
            ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            _new_key(key, seen)
    return values


def _new_key(key: str, seen: set[str]) -> None:
    if key in seen:
        raise ValueError(f"the key {key!r} stands twice in an object")
    seen.add(key)


_DECODER = json.JSONDecoder(object_pairs_hook=_once)
_NOT_OBJECT = '{}, not an object; a row is {{"column": value, …}}'


def _read_lines(source: SourceFile, problems: Problems) -> Iterator[Record | Block]:
    row = number = 0
    with source.open_text() as lines:
        while piece := lines.read(CHUNK) + lines.readline():
            if (columns := plain_objects(piece)) is not None:
                count = len(next(iter(columns.values())))
                numbers = [0] * count if number == row else range(number + 1, number + 1 + count)
                yield Block(range(row + 1, row + 1 + count), numbers, columns)
                row, number = row + count, number + count
                continue
            for line in piece.removesuffix("\n").split("\n"):
                number += 1
                if not line.strip():
                    continue
                row += 1
                values, problem = _object(line)
                if problem is not None:
                    problems.add(f"{place(source.name, row, number)}: {problem}")
                else:
                    yield Record(row, 0 if number == row else number, values)


def _object(line: str) -> tuple[dict[str, Any], str | None]:
    if (byte := bad_byte(line)) is not None:
        return {}, not_encoded(byte, "UTF-8", SAVE_AS_UTF8)
    try:
        values = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        return {}, not_json(error, line)
    if not isinstance(values, dict):
        return {}, _NOT_OBJECT.format(kind(values))
    return values, None


def not_json(error: Exception, text: str, *, of_line: bool = True) -> str:
    """What is wrong with a piece of JSON, and where it is: in its line, if the text is one (`of_line`)."""
    if not isinstance(error, json.JSONDecodeError):
        return f"not readable as JSON: {error}; mend it"
    near = text[max(0, error.pos - 20) : error.pos + 20].strip()
    where = f"character {error.pos + 1}, near {near!r}" if of_line else f"near {near!r}"
    return f"not JSON: {error.msg} ({where}); mend it, or write the file anew"


class _Stream:
    """JSON values of a text one after another, with little more of it in memory than the value at hand.

    `line` is where the stream stands, `start_line` where the last value began, `raw` its text.
    """

    def __init__(self, text: TextIO) -> None:
        self.text = text
        self.buffer = ""
        self.position = 0
        self.line = 1
        self.start_line = 1
        self.raw = ""
        self.ended = False
        self.decoder = _DECODER

    def peek(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            start = self.position
            while start < len(self.buffer) and self.buffer[start] in " \t\n\r":
                start += 1
            self._advance(start)
            if start < len(self.buffer):
                return self.buffer[start]
            if self.ended:
                return ""
            self._read_on()

    def take(self, allowed: str) -> str:
        """Reads the next character that is no blank, which must be one of `allowed`."""
        character = self.peek()
        if not character or character not in allowed:
            raise json.JSONDecodeError(f"Expecting {' or '.join(allowed)}", self.buffer, self.position)
        self._advance(self.position + 1)
        return character

    def value(self) -> Any:
        """Reads the next value."""
        self.peek()
        self.start_line = self.line
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self.buffer) - _LONGEST_TOKEN
                if self.ended or not cut:
                    raise
            else:
                if end < len(self.buffer) or self.ended:
                    self.raw = self.buffer[self.position : end]
                    self._advance(end)
                    return value
            self._read_on()

    def end(self) -> None:
        """Refuses anything but blanks up to the end."""
        if self.peek():
            raise json.JSONDecodeError("Expecting nothing more", self.buffer, self.position)

    def line_of(self, error: Exception) -> int:
        """The line where `error` was found."""
        if isinstance(error, json.JSONDecodeError) and error.pos > self.position:
            return self.line + self.buffer.count("\n", self.position, error.pos)
        return self.line

    def _advance(self, position: int) -> None:
        self.line += self.buffer.count("\n", self.position, position)
        self.position = position

    def _read_on(self) -> None:
        # As much again as is held: a value of any size is tried a few times only.
        held = self.buffer[self.position :]
        chunk = self.text.read(max(CHUNK, len(held)))
        self.ended = not chunk
        self.buffer, self.position = held + chunk, 0


def _shape(source: SourceFile, wanted: Collection[str]) -> str:
    """Lines, array, wrapped or values. What is none of these is taken for lines, so that errors are named by line."""
    with source.open_text() as text:
        stream = _Stream(text)
        if stream.peek() == "[":
            return "array"
        line = stream.line
        try:
            if stream.peek() == "{" and _enter_data(stream, wanted, None):
                stream.take("[")
                # A list of anything but objects is a row's own column.
                if stream.peek() not in ("{", "]"):
                    return "lines"
                return "lines" if _is_row(source, wanted) else "wrapped"
        except (ValueError, RecursionError):
            return "lines"
        return "lines" if stream.line == line else "values"


def _is_row(source: SourceFile, wanted: Collection[str]) -> bool:
    """Whether an object on the first line, which has a list of objects under "data", is a row all the same.

    It is if it has a column that is wanted, or if other lines follow. (A longer line is not looked through.)
    """
    with source.open_text() as lines:
        first = ""
        while not first.strip() and (line := lines.readline(CHUNK)):
            first = line
        values, problem = _object(first)
        if problem is not None:
            return False
        if any(key in wanted for key in values if key != "data"):
            return True
        return any(line.strip() for line in iter(lambda: lines.readline(CHUNK), ""))


_Rows = Callable[["_Stream", Collection[str]], Iterator[Any]]


def _array(stream: _Stream) -> Iterator[Any]:
    stream.take("[")
    if stream.peek() == "]":
        stream.take("]")
        return
    while True:
        yield stream.value()
        if stream.take(",]") == "]":
            return


def _top_array(stream: _Stream, _: Collection[str]) -> Iterator[Any]:
    yield from _array(stream)
    stream.end()


def _wrapped_array(stream: _Stream, wanted: Collection[str]) -> Iterator[Any]:
    seen: set[str] = set()
    _enter_data(stream, wanted, seen)
    yield from _array(stream)
    while stream.take(",}") == ",":
        key = _key(stream, seen)
        if key in wanted:
            raise ValueError(
                f"an object has rows under 'data' and the column {key!r} beside them; if it is a row, write each row "
                "on a line of its own"
            )
        stream.value()
        _check_bytes(stream)
    stream.end()


def _values(stream: _Stream, _: Collection[str]) -> Iterator[Any]:
    while stream.peek():
        yield stream.value()


def _enter_data(stream: _Stream, wanted: Collection[str], seen: set[str] | None) -> bool:
    """Reads an object up to the list under its key "data", or to its end or a column that is wanted (then False).

    Keys are put to `seen`; without it nothing is refused but what is no JSON.
    """
    stream.take("{")
    while stream.peek() != "}":
        key = _key(stream, seen)
        if key == "data" and stream.peek() == "[":
            return True
        if key in wanted and key != "data":
            return False
        stream.value()
        if seen is not None:
            _check_bytes(stream)
        if stream.peek() != "}":
            stream.take(",")
    stream.take("}")
    return False


def _key(stream: _Stream, seen: set[str] | None) -> Any:
    key = stream.value()
    if seen is not None:
        _check_bytes(stream)
        _new_key(key, seen)
    stream.take(":")
    return key


def _check_bytes(stream: _Stream) -> None:
    if (byte := bad_byte(stream.raw)) is not None:
        raise ValueError(not_encoded(byte, "UTF-8", SAVE_AS_UTF8))


_ROWS: dict[str, _Rows] = {
    "array": _top_array,
    "wrapped": _wrapped_array,
    "values": _values,
}
