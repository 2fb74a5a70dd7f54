"""Small copies of awkward files, one of each kind, and how a test runs a command on them in its own process."""

import contextlib
import gzip
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hf_mtl.cli import main
from hf_mtl.config import load_config
from hf_mtl.data.preparation import Prepared, prepare
from hf_mtl.data.tokenizer import load_tokenizer
from tests.tiny import save_tiny_encoder

HARD = Path(__file__).parents[3] / "shared" / "data" / "hard"
TEXTS = ["I am happy", "she is angry", "they were sad", "Rate this book", "Play a song", "a table for four"]


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def labelled(*labels: Any, column: str = "label") -> str:
    """Rows with texts, each with one of the labels; `...` stands for a row without the column."""
    made = [{"text": f"{TEXTS[place % 6]} {place}", column: label} for place, label in enumerate(labels)]
    return lines([{key: value for key, value in row.items() if value is not ...} for row in made])


def tagged(*rows: tuple[Any, Any]) -> str:
    return lines([{"tokens": tokens, "ner_tags": tags} for tokens, tags in rows])


def _sentences(letters: Mapping[str, str]) -> str:
    """Two sentences; in the second two places touch. `letters` are the scheme's prefixes of BIO's, by place."""
    tags = [["O", "B-per", "I-per", "O"], ["B-loc", "b-loc", "I-loc", "O", "I-loc"]]
    made = [[tag if tag == "O" else letters[f"{row}{place}"] + tag[1:] for place, tag in enumerate(own)]
            for row, own in enumerate(tags)]  # fmt: skip
    return tagged((["says", "John", "Lennon", "now"], made[0]), (["Berlin", "New", "York", "and", "London"], made[1]))


GOOD = labelled("a", "b", "a", "b")
CSV = 'text;label\r\nI am happy;a\r\n"she is\r\nangry";b\r\n"they ""were""; sad";a\r\n'
SCORES = [3.2, "3.8", None, "", float("nan"), 7.5, -1, "2.0 "]
CONLL = "-DOCSTART- -X- O\r\n\r\nAnna NNP B-per\r\nsleeps VBZ O   \r\n\r\n\r\nBerlin NNP B-loc"
MIXED = "# id = 1\n#tag\tO\nthe O\n   \n# words and more words\nNew York\tB-loc\n#nice O\n"
LONG = ("so sad " * 7150, "x" * 50_000, "很好" * 9000)
ZWJ, NBSP = "\u200d", "\u00a0"
PACKED = gzip.compress((GOOD * 50).encode(), mtime=0)

COPIES: dict[str, str | bytes] = {
    "csv_semicolon_bom.csv": CSV.encode("utf-8-sig"),
    "csv_semicolon_cp1252.csv": "text;label\r\ncafé;a\r\n“so” €…;b\r\n".encode("cp1252"),
    "utf16_bom.jsonl": GOOD.encode("utf-16"),
    "crlf_bom.jsonl": GOOD.replace("\n", "\r\n").encode("utf-8-sig"),
    "invalid_utf8.jsonl": GOOD.encode() + b'{"text": "\xe9\xff", "label": "a"}\n',
    "invalid_utf8.csv": b"text,label\nplain,a\nbad \xc3,b\n",
    "tsv_no_header.tsv": "I am happy\ta\nshe is angry\tb\n",
    "tsv_quotes.tsv": "I am happy\ta\n\"hello in french\tb\nmy 6' 2\" desk\ta\n",
    "ragged.csv": 'text,label,note\nI am,a,x\nBad, really bad,b,x\nFine,b\n"Never closed,a,x\nNext,b,y\n',
    "duplicate_header.csv": "text,label,label\nI am happy,a,0\nshe is angry,b,1\n",
    "conll_docstart_crlf.conll": CONLL,
    "conll_mixed_separators.conll": MIXED + "\nlonely\n\nx\tO\textra\tcolumns\n",
    "conll_mixed_right.conll": MIXED,
    "missing_column.jsonl": labelled("a", ..., "b", "a"),
    "null_labels.jsonl": labelled(None, "a", "b", "", None),
    "all_null_labels.jsonl": labelled(None, None),
    "partial_multitask.jsonl": lines(
        [
            {"text": "I am Anna", "tokens": ["I", "am", "Anna"], "slot_tags": None, "intent": "a"},
            {"text": "so Bob", "tokens": ["so", "Bob"], "slot_tags": ["O", "B-per"], "intent": None},
            {"text": "to Berlin", "tokens": ["to", "Berlin"], "slot_tags": [None, "B-loc"], "intent": "b"},
        ]
    ),
    "unseen_label/train.jsonl": GOOD,
    "unseen_label/validation.jsonl": labelled("a", "c"),
    "unseen_tag/train.jsonl": tagged((["to", "Berlin"], ["O", "B-loc"])),
    "unseen_tag/validation.jsonl": tagged((["Bob"], ["B-per"]), (["Berlin"], ["B-loc"])),
    "ner_length_mismatch.jsonl": tagged(
        (["to", "Berlin"], ["O", "B-loc"]), (["Bob"], ["B-per", "O"]), (["a", "b"], ["O"]), (["so"], []), ([], [])
    ),
    "ner_no_tokens.jsonl": tagged((["to", "Berlin"], ["O", "B-loc"]), ([], ["O", "O"])),
    "ner_tokens_string.jsonl": tagged((["Berlin"], ["B-loc"]), ("Bob sleeps", ["B-per", "O"])),
    "ner_blank_tokens.jsonl": tagged(
        (["to", "", "Berlin", " ", NBSP], ["O", "O", "B-loc", "O", "O"]),
        ([ZWJ, "Anna", "Smith"], ["O", "B-per", "I-per"]),
        (["\u200b"], ["O"]),
    ),
    "tags_bio.jsonl": _sentences({"01": "B", "02": "I", "10": "B", "11": "B", "12": "I", "14": "B"}),
    "tags_iob1.jsonl": _sentences({"01": "I", "02": "I", "10": "I", "11": "B", "12": "I", "14": "I"}),
    "tags_bioes.jsonl": _sentences({"01": "B", "02": "E", "10": "S", "11": "B", "12": "E", "14": "S"}),
    "tags_bilou.jsonl": _sentences({"01": "B", "02": "L", "10": "U", "11": "B", "12": "L", "14": "U"}),
    "tags_invalid.jsonl": tagged((["to", "Berlin"], ["O", "B-loc"]), (["Bob"], ["per"]), (["Bob"], ["b_per"])),
    "tags_broken.jsonl": tagged(
        (["to", "Berlin", "Bob"], ["O", "B-loc", "I-per"]), (["so", "Bob", "Dylan"], ["O", "I-per", "I-per"])
    ),
    "ner_integer_tags.jsonl": tagged((["to", "New", "York"], [0, 1, 2]), (["so", "Bob"], [0, 3])),
    "ner_integer_tags.names.json": '["O", "B-loc", "I-loc", "B-per"]',
    "ner_integer_outside.jsonl": tagged((["to", "York"], [0, 1]), (["so", "Bob"], [0, 4])),
    "integer_labels.csv": "text,label\nI am happy,2\nshe is angry,0\nsad,10\n",
    "integer_labels_gap.jsonl": labelled(7, -1, 3, 7),
    "mixed_type_labels.jsonl": labelled(0, "0", 0.0, True, "positive"),
    "label_case_space.jsonl": labelled("good", "Good", " good", "good", "bad", f"bad{NBSP}", "bad"),
    "label_blank.jsonl": labelled("a", "b", "  "),
    "label_floats.jsonl": labelled(1.5, 2.5),
    "single_class.jsonl": labelled("a", "a", "a"),
    "one_row_per_class.jsonl": labelled(*(f"class {number}" for number in range(20))),
    "imbalanced.jsonl": labelled(*["a"] * 30, "b", "b"),
    "duplicates_conflicting.jsonl": lines(
        [{"text": text, "label": label} for text in TEXTS[:2] for label in ("a", "a", "b")]
        + [{"text": text, "label": "b"} for text in TEXTS[2:4]]
    ),
    "multilabel_strings.csv": "text,labels\nI am,joy|fear\nshe is,joy|\nthey,\nwe,joy|joy\n",
    "multilabel_lists.jsonl": labelled(["joy"], "fear", ["joy", "fear"], column="labels"),
    "multilabel_empty.jsonl": labelled(["joy"], [], ["joy", "fear"], None, column="labels"),
    "regression_labels.jsonl": labelled(3.2, "4,5", "NaN", 1.0, "five", float("inf")),
    "regression_right.jsonl": labelled(*SCORES),
    "pair_missing_second.jsonl": lines(
        [{"text_a": f"so {second}", "text_b": second, "label": 1.5} for second in ("b", "", None, "c")]
        + [{"text_a": "alone", "label": 2.5}]
    ),
    "empty_text.jsonl": lines([{"text": text, "label": "a"} for text in ("", "   ", "\n\n", "\t", NBSP, None)]) + GOOD,
    "no_piece_text.jsonl": lines([{"text": text, "label": "a"} for text in ("\u200b", "\ufeff")]) + GOOD,
    "long_text.jsonl": lines([{"text": text, "label": "a"} for text in LONG]) + GOOD,
    "long_ner.jsonl": tagged((["Berlin", "and"] * 400, ["B-loc", "O"] * 400), (["x" * 3000, "to"], ["B-per", "O"])),
    "unicode.jsonl": labelled("a", "b"),
    "unicode_ner.jsonl": tagged(
        (["👨‍👩‍👧", "Anna", "東京"], ["O", "B-per", "B-loc"]),
        (["زار", "محمد"], ["O", "B-per"]),
        (["São", "®"], ["B-loc", "O"]),
    ),
    "surrogate_escape.jsonl": '{"text": "broken \\ud83d", "label": "a"}\n{"text": "\\ud83d\\ude00", "label": "b"}\n',
    "empty.jsonl": "",
    "only_blank_lines.jsonl": "\n\n\n",
    "header_only.csv": "text,label\n",
    "ok.jsonl.gz": PACKED,
    "truncated.jsonl.gz": PACKED[: len(PACKED) * 6 // 10],
    "checksum.jsonl.gz": PACKED[:-6] + bytes([PACKED[-6] ^ 255]) + PACKED[-5:],
    "not_gzip.jsonl.gz": labelled("a", "b", "b"),
    "packed.jsonl": gzip.compress(GOOD.encode(), mtime=0),
    "array.json": json.dumps([json.loads(line) for line in GOOD.splitlines()], indent=1),
    "wrapped.json": json.dumps({"version": "1.0", "data": [json.loads(line) for line in GOOD.splitlines()]}),
    "malformed_lines.jsonl": GOOD + '{"text": "cut", "label": "a\n{"text": "b", "label": "b"},\n{\'text\': \'c\'}\n',
    "last_line_cut.jsonl": GOOD + '{"text": "Don\'t hesitate", "',
    "columns_other_names.jsonl": GOOD.replace('"text"', '"sentence"').replace('"label"', '"sentiment"'),
    "columns_near_names.jsonl": GOOD.replace('"text"', '"Text"').replace('"label"', '"lable"'),
    "key_twice.jsonl": GOOD + '{"text": "so", "label": "a", "label": "b"}\n',
    "text_number.jsonl": GOOD + '{"text": 3, "label": "a"}\n',
    "key_order.jsonl": '{"label": "a", "text": "so"}\n' + GOOD,
}  # fmt: skip

AWKWARD_TEXTS = [
    "family 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "مرحبا بالعالم",
    "שלום עולם",
    "mixed \u202eevil\u202c text",
    "这家餐厅很好",
    "ｆｕｌｌ\u3000ｗｉｄｔｈ",
    "Cre\u0300me bru\u0302le\u0301e",
    "Z̸͖͐a̷͚̓l̶̰̈g̵̱͛o̸͈͝",
    "ภาษาไทย",
    "🇺🇸🇨🇳 1️⃣",
    "\x00null \x07bell \x1b[31mcolour",
    "line\u2028separator\u2029here",
    "ﬁne ǆ İstanbul ẞ",
    "&amp; &#39;",
    "[MASK] [CLS] <s> </s> <mask> [SEP] [PAD] <pad>",
]
COPIES["unicode.jsonl"] = lines([{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(AWKWARD_TEXTS)])


def write_copies(folder: Path) -> Path:
    """All copies, in a folder."""
    for name, content in COPIES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@dataclass
class Done:
    """What a command gave."""

    status: int
    out: str
    err: str


@dataclass
class Bench:
    """A folder with an encoder and a run file, in which the commands are run in this process.

    Args:
        folder: where everything is written.
        architecture: of the encoder.
        runs: how many run files were written; each has an output_dir of its own.
    """

    folder: Path
    architecture: str = "bert"
    runs: int = 0

    def __post_init__(self) -> None:
        save_tiny_encoder(self.folder / "encoder", self.architecture)

    @property
    def output(self) -> Path:
        """The folder that training of the newest run file fills."""
        return self.folder / f"out{self.runs}"

    def configure(self, files: Any, dataset: Mapping[str, Any], tasks: Mapping[str, Any], **others: Any) -> Path:
        """The run file for these rows."""
        self.runs += 1
        run = {
            "encoder": str(self.folder / "encoder"),
            "max_length": 32,
            "datasets": {"d": {"path": "json", "data_files": files, **dataset}},
            "tasks": {name: {"dataset": "d", **task} for name, task in tasks.items()},
            "training": {"output_dir": str(self.output), "max_steps": 1, "per_device_train_batch_size": 4},
            **others,
        }
        path = self.folder / "run.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(run, file)
        return path

    def run(self, *arguments: object) -> Done:
        """A command of the package's own `main`; an error that escapes from it fails the test."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", ["hf-mtl", *map(str, arguments)])
            patch.setenv("COLUMNS", "250")
            with pytest.raises(SystemExit) as stopped:
                main()
        return Done(int(stopped.value.code or 0), out.getvalue(), err.getvalue())

    def prepared(self) -> Prepared:
        """The rows of the run file as training reads them."""
        config = load_config(str(self.folder / "run.yaml"))
        return prepare(config, load_tokenizer(str(self.folder / "encoder"), config.max_length))


def message(done: Done) -> list[str]:
    """The lines of a refusal: on stderr, with exit status 2."""
    assert done.status == 2, f"status {done.status}: {done.out}"
    assert "Traceback" not in done.err
    return done.err.strip().splitlines()


def left_out(printed: list[str]) -> list[int]:
    """The numbers of the rows that a command says it leaves out."""
    ends = [line.rsplit(": ", 1)[1] for line in printed if " left out: " in line]
    return sorted(int(row) for end in ends for row in end.split(", "))
