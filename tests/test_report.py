"""What `check` prints of labels and names that a terminal could obey."""

import io
import os
import subprocess
import sys

from rich.console import Console

from hf_mtl.data.preparation import prepare
from hf_mtl.data.report import print_report
from tests.test_preparation import TOPIC, config_of
from tests.tiny import save_tiny_encoder, tiny_tokenizer

LABELS = ["[/b]", "[b]", ":smile:", "\x1b[31mred", "很好"]


def test_labels_are_printed_as_they_are(tmp_path):
    rows = [{"text": f"text {number}", "topic": label} for number, label in enumerate(LABELS)]
    config = config_of(tmp_path, rows, {"text_column": "text"}, {"topic": TOPIC})
    printed = io.StringIO()
    print_report(config, prepare(config, tiny_tokenizer("wordpiece", 16)), Console(file=printed, width=120))
    cells = [line.split("│")[1].strip() for line in printed.getvalue().splitlines() if line.startswith("│")]
    assert {"[/b]", "[b]", ":smile:", "\\x1b[31mred", "很好"} <= set(cells)
    assert "\x1b" not in printed.getvalue()


def test_a_name_that_is_no_utf8_is_printed(tmp_path):
    save_tiny_encoder(tmp_path / "encoder")
    name = os.fsdecode(b"caf\xe9.jsonl")
    (tmp_path / name).write_text('{"text": "a", "label": "x"}\n{"text": "", "label": "y"}\n', encoding="utf-8")
    (tmp_path / "other.jsonl").write_text('{"text": "b", "label": "y"}\n', encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        "encoder: ./encoder\nmax_length: 16\ndatasets: {d: {path: json, data_files: '*.jsonl', text_column: text}}\n"
        "tasks: {topic: {task_type: text-classification, dataset: d, label_column: label}}\n"
        "training: {output_dir: out, max_steps: 1}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "hf_mtl", "check", "run.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "caf\\udce9.jsonl row 2" in done.stdout
