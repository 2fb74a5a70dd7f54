"""Label cells → label names: what a cell may hold, and the labels of a task where the run file does not list them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

Label = TypeVar("Label")


class LabelError(ValueError):
    """A label that the task cannot read; the message is put behind the row's name."""


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
    raise LabelError(f"label {shown(cell)} is a {kind(cell)}; a label is text, an integer or true/false{hint}")


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
    return name.removeprefix("-").isdecimal()


def found_labels(cells: Iterable[Any]) -> list[str]:
    """The sorted labels of `cells`; integers (also those of a csv, which are text) in the order of numbers.

    A cell that can be no label is passed over, for it is refused where its row is known.

    Raises:
        LabelError: if there is none, or if the labels are of several kinds (1 and "1" would be two labels or one).
    """
    examples: dict[str, Any] = {}
    names: set[str] = set()
    refused: LabelError | None = None
    for cell in cells:
        try:
            names.add(label_name(cell))
            examples.setdefault(kind(cell), cell)
        except LabelError as error:
            refused = refused or error
    if len(examples) > 1:
        kinds = ", ".join(f"{name} ({shown(cell)})" for name, cell in examples.items())
        raise LabelError(f"labels of several kinds: {kinds}; write them all in one kind, or give label_list")
    if not names:
        raise refused or LabelError("no row of train has a label")
    return sorted(names, key=int) if all(map(is_integer, names)) else sorted(names)


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

    Raises (on look-up):
        LabelError: if the label is not in the list.
    """

    def __init__(self, label_list: Sequence[str], task: str) -> None:
        self.task = task
        self.places = {name: place for place, name in enumerate(label_list)}
        self.named = not any(map(is_integer, label_list))

    def __call__(self, cell: Any) -> int:
        name = label_name(cell)
        place = self.places.get(name)
        if place is not None:
            return place
        if self.named and is_integer(name) and 0 <= int(name) < len(self.places):
            return int(name)
        known = list(self.places)
        some = ", ".join(known[:7]) + (", …" if len(known) > 7 else "")
        raise LabelError(
            f"label {shown(cell)} of task {self.task} is not in label_list ({len(known)} labels: {some}); "
            f"add it to tasks.{self.task}.label_list or fix the row"
        )
