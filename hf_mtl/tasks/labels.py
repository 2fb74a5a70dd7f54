"""Label cells → label names: what a cell may hold, and the labels of a task where the run file does not list them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from unicodedata import category, normalize

Label = TypeVar("Label")


FOLD = "set normalise_labels: true to take each for the most frequent spelling, "
_WHOLE = re.compile(r"^(-?\d+)\.0+$")
LONGEST_INTEGER = 1000
"""Digits; Python reads no more than some thousands."""
SPELLED = "labels in another spelling, taken for the one in the list"


class LabelError(ValueError):
    """A label that the task cannot read; the message is put behind the row's name.

    Args:
        message: what is wrong.
        example: of what is wrong with a whole column, a label by which a row of it can be found.
    """

    def __init__(self, message: str, example: Any = None) -> None:
        super().__init__(message)
        self.example = example


def kind(cell: Any) -> str:
    """The kind of a single label cell, in the words of an error message."""
    if isinstance(cell, bool):
        return "true/false"
    if isinstance(cell, int):
        return "integer"
    if isinstance(cell, float):
        return "number"
    if isinstance(cell, str):
        return "text"
    return "list" if isinstance(cell, list) else "object"


def label_name(cell: Any) -> str:
    """The name of a label: text as it is, integers in digits, JSON true and false as "true" and "false".

    Raises:
        LabelError: for anything else.
    """
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, str):
        return cell
    hint = (
        "; for scores write problem_type: regression, else save the column as integers or text"
        if isinstance(cell, float)
        else ""
    )
    names = {type(None): "null", float: "a number", list: "a list", dict: "an object"}
    what = names.get(type(cell), f"a value of type {type(cell).__name__}")
    raise LabelError(f"label {shown(cell)} is {what}; a label is text, an integer or true/false{hint}")


def class_name(place: int, names: Sequence[str]) -> str:
    """The name that a `ClassLabel` gives an integer: always a place, also where the names are numbers themselves.

    Raises:
        LabelError: if there is no such place.
    """
    if not 0 <= place < len(names):
        raise LabelError(f"{place} has no name; the names go from 0 to {len(names) - 1}")
    return names[place]


def shown(cell: Any) -> str:
    """A cell as an error message shows it, cut after 60 characters."""
    text = repr(cell)
    return text if len(text) <= 60 else text[:57] + "…"


def is_integer(name: str) -> bool:
    """Whether a label's name is an integer in digits."""
    return len(name) <= LONGEST_INTEGER and name.removeprefix("-").isdecimal()


def found_labels(cells: Iterable[Any], *, normalise: bool | None = None) -> list[str]:
    """The sorted labels of `cells`; integers (also those of a csv, which are text) in the order of numbers.

    A cell that can be no label is passed over, for it is refused where its row is known.

    Args:
        cells: of a column.
        normalise: whether of labels that differ in spelling alone the most frequent one stands for all; None
            where there is no such choice.

    Raises:
        LabelError: if there is none, if the labels are of several kinds (1 and "1" would be two labels or one), or if
            some differ in spelling alone and that is not to be passed over.
    """
    examples: dict[str, Any] = {}
    names: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    refused: LabelError | None = None
    for cell in cells:
        try:
            names[label_name(cell)] += 1
            own = kind(cell)
            kinds[own] += 1
            examples.setdefault(own, cell)
        except LabelError as error:
            refused = refused or LabelError(str(error), cell)
    if len(examples) > 1:
        told = ", ".join(f"{name} ({shown(cell)})" for name, cell in examples.items())
        scores = ", or write problem_type: regression for scores" if refused is not None else ""
        raise LabelError(
            f"labels of several kinds: {told}; write them all in one kind, or give label_list{scores}",
            examples[min(kinds, key=lambda name: kinds[name])],
        )
    if not names:
        raise refused or LabelError("no row of train has a label; name the column of the labels, or fill it")
    labels = _one_spelling(names, normalise)
    return sorted(labels, key=int) if all(map(is_integer, labels)) else sorted(labels)


def labels_within(cells: Iterable[Any], read: Callable[[Any], Iterable[Any]]) -> list[str]:
    """The sorted labels in a column of several a cell: those that `read` gives.

    There are none if a cell is refused and the others give no list of labels: it is that cell's row that must be named,
    which is done where it is read.

    Raises:
        LabelError: as for `found_labels`.
    """
    refused = False

    def each() -> Iterator[Any]:
        nonlocal refused
        for cell in cells:
            try:
                yield from () if cell is None else read(cell)
            except LabelError:
                refused = True

    try:
        return found_labels(each())
    except LabelError:
        if not refused:
            raise
        return []


def folded(name: str) -> str:
    """A label's name without what spelling alone may change.

    That is case, blanks around and between words, an accent written as a character of its own, characters that are not
    seen (a zero-width space), and the .0 of a whole number.
    """
    # Not casefold, for which ß is ss: Maße (measures) and Masse (mass) are two words.
    return _WHOLE.sub(r"\1", " ".join(_seen(name).split()).lower())


def _seen(name: str) -> str:
    if name.isascii():
        return name
    return "".join(character for character in normalize("NFC", name) if category(character) != "Cf")


def _one_spelling(names: Counter[str], normalise: bool | None) -> list[str]:
    """The most frequent spelling of each label, the first in order among equals."""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(folded(name), []).append(name)
    several = [sorted(spellings, key=lambda name: -names[name]) for spellings in alike.values() if len(spellings) > 1]
    if several and not normalise:
        told = "; ".join(
            ", ".join(f"{_told(name, spellings)} ({names[name]})" for name in spellings) for spellings in several[:10]
        )
        raise LabelError(
            f"labels that differ in spelling alone: {told}{'; …' if len(several) > 10 else ''}; mend the rows, "
            f"{FOLD if normalise is not None else ''}or list them all in label_list",
            several[0][-1],
        )
    return [max(spellings, key=lambda name: names[name]) for spellings in alike.values()]


def _told(name: str, spellings: Sequence[str]) -> str:
    look_alike = len(set(map(_seen, spellings))) < len(spellings)
    return ascii(name) if look_alike else repr(name)


def readable(cells: Iterable[Any], read: Callable[[Any], Label]) -> Iterator[Label]:
    """What `read` gives for the cells that say something and can be read.

    The others are refused when their split is encoded, where the row is known.
    """
    for cell in cells:
        if cell is not None:
            with suppress(LabelError):
                yield read(cell)


class LabelIndex:
    """Label cells → places in `label_list`. An integer that is no label is the place of a named label.

    Args:
        label_list: the labels.
        task: the task's name.
        normalise: whether another spelling (case, blanks) stands for the label; None where there is no such choice.
        notes: counts such spellings.

    Raises:
        LabelError: if spellings of one label stand in the list; on look-up, if the label is not in the list.
    """

    def __init__(
        self,
        label_list: Sequence[str],
        task: str,
        *,
        normalise: bool | None = False,
        notes: Counter[str] | None = None,
    ) -> None:
        self.task, self.normalise, self.notes = task, normalise, Counter() if notes is None else notes
        self.places = {name: place for place, name in enumerate(label_list)}
        self.named = not any(map(is_integer, label_list))
        self.spellings = {folded(name): place for name, place in self.places.items()}
        if normalise and len(self.spellings) < len(self.places):
            alike = [name for name, place in self.places.items() if self.spellings[folded(name)] != place]
            raise LabelError(
                f"label_list has {shown(alike[0])} in two spellings, which normalise_labels would take for one; "
                "take one of them out"
            )

    def __call__(self, cell: Any) -> int:
        name = label_name(cell)
        place = self.places.get(name)
        if place is not None:
            return place
        if self.named and is_integer(name) and 0 <= int(name) < len(self.places):
            return int(name)
        alike = self.spellings.get(folded(name))
        if alike is not None and self.normalise:
            self.notes[SPELLED] += 1
            return alike
        known = list(self.places)
        some = ", ".join(known[:7]) + (", …" if len(known) > 7 else "")
        foldable = alike is not None and self.normalise is not None
        hint = f", or set normalise_labels: true to take it for {known[alike or 0]!r}" if foldable else ""
        raise LabelError(
            f"label {shown(cell)} of task {self.task} is not in label_list ({len(known)} labels: {some}); "
            f"add it to tasks.{self.task}.label_list or fix the row{hint}"
        )
