"""What is expected of each awkward file: read right, or refused with the place and the reason."""

from dataclasses import dataclass, field
from typing import Any

CSV, CONLL = {"path": "csv"}, {"path": "conll"}
TEXT, WORDS = {"text_column": "text"}, {"tokens_column": "tokens"}
PAIR = {"text_column": "text_a", "text_pair_column": "text_b"}
EVERY_THIRD = tuple(range(1, 59, 3))


def label(column: str = "label", **keys: Any) -> dict[str, Any]:
    return {"topic": {"task_type": "text-classification", "label_column": column, **keys}}


def tags(column: str = "ner_tags", **keys: Any) -> dict[str, Any]:
    return {"ner": {"task_type": "token-classification", "label_column": column, **keys}}


SCORE = label(problem_type="regression")


@dataclass(frozen=True)
class Read:
    """A file that is read right.

    Args:
        rows: how many there are.
        left_out: the numbers of those that are left out, each of which `check` names.
        labels: the label list of the first task.
        told: words that stand together in a line of what `check` prints, for each such line.
    """

    rows: int
    left_out: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    told: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Refused:
    """A file that is refused with exit status 2: the words of each line that the message must have."""

    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Case:
    """A file, the run file's words about it, and what is expected of the shared file and of the small copy."""

    file: str
    dataset: dict[str, Any]
    tasks: dict[str, Any]
    copy: Read | Refused | None
    shared: Read | Refused | None = None
    splits: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        extra = {key: value for key, value in self.dataset.items() if not key.endswith(("_column", "path"))}
        more = [value for task in self.tasks.values() for key, value in task.items() if key not in _USUAL]
        return " ".join(map(str, (self.file, *extra, *more))).replace("/", "_")


_USUAL = ("task_type", "label_column")


def no(*lines: tuple[str, ...]) -> Refused:
    return Refused(lines)


AB = ("a", "b")
FEELINGS = ("negative", "neutral", "positive")
PLACES = ("O", "B-loc", "I-loc", "B-per", "I-per")
BAD_QUOTE = ("a quote", 'write ""')
NAMED = {**CSV, **TEXT, "csv": {"header": False, "names": ["text", "label"]}}
NAMES = "ner_integer_tags.names.json"

FILES = [
    Case("csv_semicolon_bom.csv", {**CSV, **TEXT}, label(), Read(3, labels=AB), Read(120, labels=FEELINGS)),
    Case("csv_semicolon_cp1252.csv", {**CSV, **TEXT}, label(),
         no(("row 1 (line 2)", "0xE9", "UTF-8", "encoding: cp1252")),
         no(("row 1 (line 2)", "0xFA", "encoding: cp1252"))),
    Case("csv_semicolon_cp1252.csv", {**CSV, **TEXT, "csv": {"encoding": "cp1252", "sep": ";"}}, label(), Read(2),
         Read(101)),
    Case("csv_semicolon_cp1252.csv", {**CSV, **TEXT, "csv": {"encoding": "utf-16"}}, label(),
         no(("utf-16", "encoding"))),
    Case("utf16_bom.jsonl", TEXT, label(), Read(4, labels=AB), Read(20, labels=FEELINGS)),
    Case("crlf_bom.jsonl", TEXT, label(), Read(4, labels=AB), Read(20, labels=FEELINGS)),
    Case("invalid_utf8.jsonl", TEXT, label(), no(("row 5 (line 5)", "0xE9", "UTF-8", "save")),
         no(("row 5 (line 5)", "0xE9", "UTF-8"), ("row 10 (line 10)", "0xE4"))),
    Case("invalid_utf8.csv", {**CSV, **TEXT}, label(), no(("row 2 (line 3)", "0xC3", "encoding")),
         no(("row 6 (line 7)", "0xC3", "encoding"), ("row 7 (line 8)", "0x80"))),
    Case("tsv_no_header.tsv", {**CSV, **TEXT}, label(), no(("no column 'text'", "I am happy, a", "header: false"))),
    Case("tsv_no_header.tsv", NAMED, label(), Read(2, labels=AB), no(("row 61 (line 61)", "line 62", *BAD_QUOTE))),
    Case("tsv_quotes.tsv", NAMED, label(), no(("row 2 (line 2)", "line 3", *BAD_QUOTE))),
    Case("ragged.csv", {**CSV, **TEXT}, label(),
         no(("row 2 (line 3)", "4 cells for 3 columns"), ("row 3 (line 4)", "2 cells"), ("row 4 (line 5)", *BAD_QUOTE)),
         no(("row 2 (line 3)", "4 cells for 3 columns"), ("row 3 (line 4)", "2 cells"),
         ("row 5 (line 6)", *BAD_QUOTE))),
    Case("duplicate_header.csv", {**CSV, **TEXT}, label(), *[no(("line 1", "'label'", "twice", "rename"))] * 2),
    Case("duplicate_header.csv", {**CSV, **TEXT, "csv": {"names": ["text", "label", "number"]}}, label(), Read(2),
         Read(10)),
    Case("conll_docstart_crlf.conll", {**CONLL, **WORDS}, tags(), Read(2, labels=PLACES), Read(41)),
    Case("conll_mixed_separators.conll", {**CONLL, **WORDS}, tags(),
         no(("row 3 (line 9)", "1 column", "'lonely'"), ("row 4 (line 11)", "4 columns")),
         no(("row 32 (line 710)", "1 column", "'lonely'"), ("row 33 (line 712)", "4 columns"))),
    Case("conll_mixed_right.conll", {**CONLL, **WORDS}, tags(), Read(2, labels=("O", "B-loc", "I-loc"))),
    Case("missing_column.jsonl", TEXT, label(), Read(4, (2,), AB), Read(60, tuple(range(2, 59, 4)), FEELINGS)),
    Case("null_labels.jsonl", TEXT, label(), Read(5, (1, 4, 5), AB), Read(60, EVERY_THIRD, FEELINGS)),
    Case("all_null_labels.jsonl", TEXT, label(),
         *[no(("data set d", "column label", "no row of train has a label"))] * 2),
    Case("partial_multitask.jsonl", {**TEXT, **WORDS}, {**label("intent"), **tags("slot_tags")},
         Read(3, labels=AB, told=(("rows without label", "1"),)), Read(80, told=(("rows without label", "20"),))),
    Case("unseen_label", TEXT, label(), no(("validation.jsonl row 2", "'c'", "label_list")),
         no(("validation.jsonl row 5", "'negative'", "label_list"), ("validation.jsonl row 31", "'mixed'")),
         splits=("train", "validation")),
    Case("unseen_label", TEXT, label(label_list=["b", "a", "c"]), Read(6, labels=("b", "a", "c")),
         splits=("train", "validation")),
    Case("unseen_tag", WORDS, tags(), no(("validation.jsonl row 1", "per", "label_list")),
         no(("validation.jsonl row 1", "product", "label_list")), splits=("train", "validation")),
    Case("unseen_tag", WORDS, tags(label_list=["loc", "per"]), Read(3, labels=PLACES), splits=("train", "validation")),
    Case("ner_length_mismatch.jsonl", WORDS, tags(),
         no(("row 2:", "2 tags", "1 word"), ("row 3:", "1 tag", "2 words"), ("row 4:", "0 tags", "1 word")),
         no(("row 11:", "'tokens'", "a string", "list of strings"))),
    Case("ner_no_tokens.jsonl", WORDS, tags(), no(("row 2:", "2 tags", "0 words"))),
    Case("ner_tokens_string.jsonl", WORDS, tags(), no(("row 2:", "'tokens'", "a string", "list of strings"))),
    Case("ner_blank_tokens.jsonl", WORDS, tags(), Read(3, (3,), PLACES, (("4 words without a piece",),)),
         Read(11, (3,), told=(("6 words without a piece",), ("1 tags that break their scheme",)))),
    *(Case(f"tags_{scheme}.jsonl", WORDS, tags(), Read(2, labels=PLACES), Read(49)) for scheme in ("bio", "iob1",
         "bioes", "bilou")),
    Case("tags_invalid.jsonl", WORDS, tags(), no(("row 2:", "'per'", "B-…, I-…"), ("row 3:", "'b_per'", "B-…, I-…")),
         no(("row 3:", "'location'", "B-…"), ("row 4:", "'b_location'"), ("row 20:", "'b_location'"))),
    Case("tags_broken.jsonl", WORDS, tags(tag_scheme="BIO"),
         Read(2, labels=PLACES, told=(("2 tags that break their scheme",),))),
    Case("ner_integer_tags.jsonl", WORDS, tags(label_list=NAMES), Read(2, labels=PLACES), Read(40)),
    Case("ner_integer_outside.jsonl", WORDS, tags(label_list=NAMES), no(("row 2:", "4 has no name", "0 to 3"))),
    Case("integer_labels.csv", {**CSV, **TEXT}, label(), Read(3, labels=("0", "2", "10")),
         Read(60, labels=("0", "1", "2"))),
    Case("integer_labels.csv", {**CSV, **TEXT}, label(label_list=["low", "middle", "high"]),
         no(("row 3 (line 4)", "'10'", "low, middle, high")), Read(60, labels=("low", "middle", "high"))),
    Case("integer_labels_gap.jsonl", TEXT, label(), Read(4, labels=("-1", "3", "7")),
         Read(60, labels=("-1", "3", "7"))),
    Case("mixed_type_labels.jsonl", TEXT, label(),
         *[no(("column label", "integer (0)", "text ('0')", "true/false"))] * 2),
    Case("label_case_space.jsonl", TEXT, label(),
         no(("column label", "'good'", "'Good'", "' good'", "normalise_labels: true")),
         no(("column label", "'positive'", "'Positive'", "' positive'", "'positive '", "'POSITIVE'", "'negative'",
         r"'Negative\xa0'"))),
    Case("label_case_space.jsonl", TEXT, label(normalise_labels=True),
         Read(7, labels=("bad", "good"), told=(("3", "spelling"),)),
         Read(40, told=(("25", "spelling"),))),
    Case("label_blank.jsonl", TEXT, label(), Read(3, (3,), AB)),
    Case("label_floats.jsonl", TEXT, label(), no(("column label", "1.5", "problem_type: regression"))),
    Case("single_class.jsonl", TEXT, label(), Read(3, labels=("a",), told=(("topic", "one label"),)),
         Read(30, labels=("neutral",), told=(("topic", "one label"),))),
    Case("one_row_per_class.jsonl", TEXT, label(), Read(20), Read(151)),
    Case("one_row_per_class.jsonl", {**TEXT, "splits": {"validation": 0.1}}, label(),
         *[no(("jsonl row ", "label_list"))] * 2),
    Case("imbalanced.jsonl", {**TEXT, "splits": {"validation": 0.1}}, label(), Read(32, labels=AB), Read(303)),
    Case("duplicates_conflicting.jsonl", TEXT, label(), Read(8, labels=AB), Read(30)),
    Case("multilabel_strings.csv", {**CSV, **TEXT}, label("labels", label_separator="|"),
         Read(4, (3,), ("fear", "joy")), Read(45, (6,))),
    Case("multilabel_lists.jsonl", TEXT, label("labels"), no(("row 2:", "'fear'", "list", "label_separator")),
         no(("row 2:", "'fear'", "list"), ("row 27:", "'annoyance'"))),
    Case("multilabel_empty.jsonl", TEXT, label("labels"), Read(4, (4,), ("fear", "joy"))),
    Case("regression_labels.jsonl", TEXT, SCORE,
         no(("row 2:", "'4,5'"), ("row 3:", "'NaN'"), ("row 5:", "'five'"), ("row 6:", "inf"))),
    Case("regression_labels.jsonl", PAIR, SCORE, None,
         no(("row 3:", "'4,5'"), ("row 4:", "'NaN'"), ("row 10:", "'five'"), ("row 11:", "inf"))),
    Case("regression_labels.jsonl", PAIR, label(), None, no(("column label", "'3.8'", "problem_type: regression"))),
    Case("regression_right.jsonl", TEXT, SCORE, Read(8, (3, 4, 5))),
    Case("pair_missing_second.jsonl", PAIR, SCORE, Read(5, (2, 3, 5)), Read(12, (3, 5, 7))),
    Case("empty_text.jsonl", TEXT, label(), Read(10, tuple(range(1, 7)), AB), Read(20, tuple(range(1, 9)), FEELINGS)),
    Case("no_piece_text.jsonl", TEXT, label(), Read(6, (1, 2), AB)),
    Case("long_text.jsonl", TEXT, label(), Read(7, labels=AB), Read(8)),
    Case("long_ner.jsonl", WORDS, tags(), Read(2, labels=PLACES), Read(7)),
    Case("unicode.jsonl", TEXT, label(), Read(15, labels=AB), Read(18, labels=FEELINGS)),
    Case("unicode_ner.jsonl", WORDS, tags(), Read(3, labels=PLACES), Read(12)),
    Case("surrogate_escape.jsonl", TEXT, label(), *[no(("row 1:", "column 'text'", "character 8", r"\ud83d"))] * 2),
    Case("empty.jsonl", TEXT, label(), *[no(("has no rows", "train"))] * 2),
    Case("only_blank_lines.jsonl", TEXT, label(), *[no(("has no rows", "train"))] * 2),
    Case("header_only.csv", {**CSV, **TEXT}, label(), *[no(("has no rows", "train"))] * 2),
    Case("ok.jsonl.gz", TEXT, label(), Read(200, labels=AB), Read(400, labels=FEELINGS)),
    Case("truncated.jsonl.gz", TEXT, label(), *[no(("cut off",))] * 2),
    Case("checksum.jsonl.gz", TEXT, label(), no(("damaged",))),
    Case("not_gzip.jsonl.gz", TEXT, label(), *[no((".gz", "not gzip", "rename"))] * 2),
    Case("packed.jsonl", TEXT, label(), no(("gzip", ".gz"))),
    Case("array.json", TEXT, label(), Read(4, labels=AB), Read(20, labels=FEELINGS)),
    Case("wrapped.json", TEXT, label(), Read(4, labels=AB), Read(20, labels=FEELINGS)),
    Case("malformed_lines.jsonl", TEXT, label(), no(*[(f"row {row} (line {row})", "not JSON") for row in (5, 6, 7)]),
         no(*[(f"row {row} (line {row})", "not JSON") for row in (4, 7, 9)])),
    Case("last_line_cut.jsonl", TEXT, label(), no(("row 5 (line 5)", "not JSON")),
         no(("row 10 (line 10)", "not JSON"))),
    Case("columns_other_names.jsonl", TEXT, label(),
         *[no(("'text'", "text_column", "sentence"), ("'label'", "label_column"))] * 2),
    Case("columns_other_names.jsonl", {"text_column": "sentence"}, label("sentiment"), Read(4, labels=AB), Read(20)),
    Case("columns_near_names.jsonl", TEXT, label(),
         no(("'text'", "did you mean Text"), ("'label'", "did you mean lable"))),
    Case("key_twice.jsonl", TEXT, label(), no(("row 5", "'label'", "twice"))),
    Case("text_number.jsonl", TEXT, label(), no(("row 5:", "column 'text'", "the number 3", "a string"))),
    Case("key_order.jsonl", TEXT, label(), Read(5, labels=AB), Read(20, labels=FEELINGS)),
]  # fmt: skip

ANSWERED = {
    "csv_semicolon_bom.csv": 120, "utf16_bom.jsonl": 20, "crlf_bom.jsonl": 20, "missing_column.jsonl": 60,
    "empty.jsonl": 0,
    "header_only.csv": 0, "long_text.jsonl": 8, "unicode.jsonl": 18, "ok.jsonl.gz": 400, "array.json": 20,
    "wrapped.json": 20,
    "key_order.jsonl": 20, "only_blank_lines.jsonl": 0, "multilabel_strings.csv": 45, "null_labels.jsonl": 60,
}  # fmt: skip
NOT_ANSWERED = {
    "csv_semicolon_cp1252.csv": ("row 1 (line 2)", "0xFA"), "invalid_utf8.jsonl": ("row 5 (line 5)", "0xE9", "save"),
    "tsv_no_header.tsv": ("'text'", "text_column"), "ragged.csv": ("row 2 (line 3)", "4 cells"),
    "duplicate_header.csv": ("'label'", "twice"),
    "conll_docstart_crlf.conll": (".txt, .jsonl",), "ner_blank_tokens.jsonl": ("'text'", "tokens, ner_tags"),
    "empty_text.jsonl": ("row 8", "no text"), "surrogate_escape.jsonl": ("row 1", "column 'text'", "character 8"),
    "truncated.jsonl.gz": ("cut off",), "not_gzip.jsonl.gz": ("not gzip",),
    "malformed_lines.jsonl": ("row 4 (line 4)", "not JSON"),
    "last_line_cut.jsonl": ("row 10 (line 10)", "not JSON"),
    "columns_other_names.jsonl": ("'text'", "sentence, sentiment, id"),
    "ner_integer_tags.names.json": ("row 1 (line 1)", "not an object"),
}  # fmt: skip
