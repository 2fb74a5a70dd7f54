"""CoNLL files: a token a line, a blank line behind each sentence; CoNLL-U known by its ten columns."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hf_mtl.data.files import SourceFile, bad_byte
from hf_mtl.data.records import SAVE_AS_UTF8, Problems, ReadOptions, Record, not_encoded, place
from hf_mtl.errors import DataError

CONLL_U = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_TOKEN_ID = re.compile(r"[0-9]+")
_ANY_ID = re.compile(r"[0-9]+([-.][0-9]+)?")
_TAG = re.compile(r"O|[A-Z]-\S+")


def read_conll(source: SourceFile, options: ReadOptions, problems: Problems) -> Iterator[Record]:
    """The sentences of a CoNLL file; `line` is that of the sentence's first token.

    Columns are split at tabs, in a line without any at blanks. They are called as `options.columns` says; else the
    first `options.tokens`, and the last as the label column that is asked for. CoNLL-U has names of its own, its
    multiword ranges and empty nodes are left out, and its "_" is null.
    """
    sentence = _Sentences(source, options, problems)
    with source.open_text() as lines:
        for number, line in enumerate(lines, start=1):
            line = line.rstrip(" \t\r\n")
            if not line.strip() or line.startswith("-DOCSTART-"):
                yield from sentence.finish()
            else:
                sentence.add(line, number)
    yield from sentence.finish()


class _Sentences:
    """The sentence being read. The number of columns is that of the file's first token line."""

    def __init__(self, source: SourceFile, options: ReadOptions, problems: Problems) -> None:
        self.source, self.options, self.problems = source, options, problems
        self.names: list[str] | None = list(options.columns) if options.columns else None
        self.width = len(options.columns) if options.columns else 0
        self.began = self.is_conll_u = False
        self.tokens: list[list[str]] = []
        self.text: str | None = None
        self.start = 0
        self.row = 0

    def add(self, line: str, number: int) -> None:
        """Reads a line that is not blank."""
        cells = [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else line.split(" ")
        cells = cells if "\t" in line else [cell for cell in cells if cell]
        if self._is_comment(line, cells):
            if line.startswith("# text = "):
                self.text = line.removeprefix("# text = ")
            return
        if not self.start:
            self.start = number
            self.row += 1
        if not self.began:
            self.began = True
            self._name_columns(cells, number)
        if (byte := bad_byte(line)) is not None:
            self._refuse(number, not_encoded(byte, "UTF-8", SAVE_AS_UTF8))
        elif len(cells) != self.width:
            self._refuse(number, f"{_columns(len(cells))} where the file has {self.width}: {line!r}; mend the line")
        elif not self.is_conll_u or _TOKEN_ID.fullmatch(cells[0]):
            self.tokens.append(cells)

    def finish(self) -> Iterator[Record]:
        """Ends the sentence, if one has begun."""
        if self.start:
            yield Record(self.row, self.start, self._values())
        self.tokens, self.text, self.start = [], None, 0

    def _is_comment(self, line: str, cells: Sequence[str]) -> bool:
        # "# O" may be a token: its line then has the file's columns, and in a sentence's first line a tag at its end.
        if self.is_conll_u:
            return line.startswith("#")
        if not line.startswith("# "):
            return line == "#" and not self.start
        if len(cells) != (self.width or 2):
            return True
        return not self.start and not _TAG.fullmatch(cells[-1])

    def _name_columns(self, cells: Sequence[str], number: int) -> None:
        options = self.options
        self.is_conll_u = len(cells) == len(CONLL_U) and bool(_ANY_ID.fullmatch(cells[0]))
        self.width = self.width or len(cells)
        if self.names is not None:
            return
        if self.is_conll_u:
            self.names = list(CONLL_U)
            return
        labels = [name for name in options.labels if name != options.tokens]
        if self.width < 1 + len(labels) or len(labels) > 1:
            raise DataError(
                f"{self.source.name} line {number}: {_columns(self.width)}, and the label columns "
                f"{', '.join(labels)} are asked for; name all columns of the file: columns: [{options.tokens}, …]"
            )
        between = [str(place) for place in range(1, self.width - 1)]
        self.names = [options.tokens, *between, *(labels or ["labels"])][: self.width]

    def _values(self) -> dict[str, Any]:
        names = self.names or []
        values: dict[str, Any] = {name: [] for name in names}
        for cells in self.tokens:
            for name, cell in zip(names, cells, strict=True):
                values[name].append(cell)
        if self.is_conll_u:
            words = "form" if "form" in values else self.options.tokens
            values = {
                name: cells if name == words else [None if cell == "_" else cell for cell in cells]
                for name, cells in values.items()
            }
            values.setdefault(self.options.tokens, values.get("form"))
        if self.text is not None:
            values.setdefault("text", self.text)
        return values

    def _refuse(self, number: int, message: str) -> None:
        self.problems.add(f"{place(self.source.name, self.row, number)}: {message}")


def _columns(count: int) -> str:
    return "1 column" if count == 1 else f"{count} columns"
