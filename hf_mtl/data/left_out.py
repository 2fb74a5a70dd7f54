"""What is told of rows that are not read."""

from collections.abc import Iterator, Mapping

from hf_mtl.data.encoding import Sequences
from hf_mtl.data.row_split import LeftOut


def left_out(dataset: str, splits: Mapping[str, Sequences]) -> Iterator[str]:
    """A line for each split and reason of how many rows are left out, naming the first of them."""
    for split, sequences in splits.items():
        summary, numbers = sequences.summary, sequences.rows.numbers
        for found in (
            *sequences.rows.left_out,
            LeftOut("without text", summary.without_text, tuple(numbers(summary.without_text_rows))),
            LeftOut("without a label for any task", summary.without_label, tuple(numbers(summary.without_label_rows))),
        ):
            if found.count:
                named = ", ".join(found.rows) + (", …" if found.count > len(found.rows) else "")
                yield f"{dataset} {split}: {found.count} rows {found.reason} left out: {named}"
