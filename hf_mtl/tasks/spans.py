"""Labelled spans of characters, as labelling tools export them: [{"start": 0, "end": 6, "label": "place"}]."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from unicodedata import category

from hf_mtl.tasks.labels import LabelError, class_name, label_name, shown

# Scripts that write no blanks between words: each character is one.
_ALONE = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class Span(NamedTuple):
    """A part of a text: code points from `start` to before `end`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Spans:
    """The spans of a row, in the order of the text."""

    found: tuple[Span, ...]


def read_spans(cell: Any, names: Sequence[str] | None = None) -> Spans:
    """The spans in a cell.

    Args:
        cell: a list of spans.
        names: what integers are places in: the names of a `ClassLabel`.

    Raises:
        LabelError: if the cell is no list of spans, or two of them overlap: a word has one tag.
    """
    if not isinstance(cell, list):
        raise LabelError(f'spans {shown(cell)} are not a list; write [{{"start": 0, "end": 6, "label": "place"}}]')
    spans = sorted(_span(one, names) for one in cell)
    for before, after in zip(spans, spans[1:], strict=False):
        if after.start < before.end:
            told = " and ".join(f"{one.start}–{one.end} ({one.label})" for one in (before, after))
            raise LabelError(f"spans {told} overlap; a word has one tag: keep one of them")
    return Spans(tuple(spans))


def _span(one: Any, names: Sequence[str] | None) -> Span:
    if not isinstance(one, dict) or not {"start", "end", "label"} <= set(one):
        raise LabelError(f"{shown(one)} is no span; a span has start, end and label")
    start, end = one["start"], one["end"]
    for value in (start, end):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise LabelError(f"span {shown(one)}: start and end are whole numbers of characters from 0 on")
    if end <= start:
        raise LabelError(f"span {shown(one)}: its end is not behind its start; the end is the place after it")
    label = one["label"]
    if label is None:
        raise LabelError(f"span {shown(one)} has no label; give it one, or take it out")
    name = class_name(label, names) if names and type(label) is int else label_name(label)
    if not name.strip():
        raise LabelError(f"span {shown(one)} has an empty label")
    if name == "O":
        raise LabelError(f"span {shown(one)} is labelled O, which means no entity; rename the label, or take it out")
    return Span(start, end, name)


def check_within(text: str, cells: Mapping[str, Any]) -> None:
    """Holds the spans of a row, by column, against its text; what cannot be read is refused where its label is.

    Raises:
        LabelError: for a span that ends behind the text.
    """
    for column, cell in cells.items():
        for one in cell if isinstance(cell, list) else ():
            end = one.get("end") if isinstance(one, dict) else None
            if isinstance(end, int) and end > len(text):
                raise LabelError(
                    f"column {column!r}: span {shown(one)} goes behind the end of the text, which has {len(text)} "
                    "characters; mend the span"
                )


def span_words(text: str, cells: Iterable[Any]) -> list[tuple[int, int]]:
    """The words of a text without words of its own: (start, end), cut where a span begins or ends within one.

    Args:
        text: the text.
        cells: the row's cells of spans; what cannot be read is refused where its label is.
    """
    edges: set[int] = set()
    for cell in cells:
        for one in cell if isinstance(cell, list) else ():
            if isinstance(one, dict):
                edges |= {edge for edge in (one.get("start"), one.get("end")) if isinstance(edge, int)}
    words = []
    for start, end in _runs(text):
        cuts = sorted({start, end, *(edge for edge in edges if start < edge < end)})
        words += list(zip(cuts, cuts[1:], strict=False))
    return words


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Runs of letters, marks and digits, single signs, and single characters where no blanks are written."""
    start, kind = 0, ""
    for place, character in enumerate(text):
        own = _kind(character)
        if kind and (own != kind or own in ("alone", "sign")) and own != "mark":
            yield start, place
            kind = ""
        if not kind and own:
            start, kind = place, "word" if own == "mark" else own
    if kind:
        yield start, len(text)


def _kind(character: str) -> str:
    if character.isspace():
        return ""
    if _ALONE.match(character):
        return "alone"
    if category(character)[0] == "M":
        return "mark"
    return "word" if character.isalnum() or character == "_" else "sign"


def span_tags(spans: Spans, words: Sequence[tuple[int, int]]) -> list[str]:
    """A BIO tag for each word; a word belongs to the first span that it touches.

    Raises:
        LabelError: for a span that reaches no word of its own.
    """
    tags = ["O"] * len(words)
    place = 0
    for span in spans.found:
        while place < len(words) and words[place][1] <= span.start:
            place += 1
        first = place
        while place < len(words) and words[place][0] < span.end:
            tags[place] = f"{'B' if place == first else 'I'}-{span.label}"
            place += 1
        if place == first:
            raise LabelError(
                f"span {span.start}–{span.end} ({span.label}) holds no word: it is behind the end of the text, blank, "
                "or within a word of the span before it"
            )
    return tags
