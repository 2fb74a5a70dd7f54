"""The commands as a shell runs them: outputs, exit statuses, and one message for what is wrong."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hf_mtl.cli import main
from tests.runs import tiny_run


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run_main(*arguments: object, folder: Path, text: str = "") -> Done:
    """Runs a command of the package's own `main`, in a folder, with a text on standard input."""
    out, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["hf-mtl", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO(text))
        with pytest.raises(SystemExit) as stopped:
            main()
    return Done(int(stopped.value.code or 0), out.getvalue(), errors.getvalue())


def write_run(folder, **training):
    with (folder / "run.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(tiny_run(folder, **training), file)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_run(folder, max_steps=8)
    return folder, run_main("train", "run.yaml", folder=folder)


def refused(done) -> str:
    """The message of a command that the user's input made stop."""
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_train_prints_a_table_of_all_metrics_and_saves(trained):
    folder, done = trained
    assert done.returncode == 0, done.stderr
    for word in ("validation", "test", "topic", "f1_macro", "names", "saved in"):
        assert word in done.stdout
    assert (folder / "out" / "metrics.json").exists()


def test_training_into_the_same_folder_again_is_refused(trained):
    folder, _ = trained
    assert "--overwrite" in refused(run_main("train", "run.yaml", folder=folder))


def test_check_prints_rows_labels_and_what_is_left_out(trained):
    folder, _ = trained
    done = run_main("check", "run.yaml", "--set", "max_length=16", folder=folder)
    assert done.returncode == 0, done.stderr
    for word in ("rows over 16 pieces", "weather", "name", "rows without label", "stand in train too", "in order"):
        assert word in done.stdout


def test_evaluate_gives_the_metrics_of_the_run_again_and_writes_the_wrong_answers(trained):
    folder, _ = trained
    done = run_main("evaluate", "out", "--split", "test", "--json", "m.json", "--errors", "e.jsonl", folder=folder)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads((folder / "m.json").read_text(encoding="utf-8")) == metrics["test"]
    wrong = [json.loads(line) for line in (folder / "e.jsonl").open(encoding="utf-8")]
    topics = [entry["score"] for entry in wrong if entry["task"] == "topic"]
    right = metrics["test"]["topic"]["accuracy"]
    assert len(topics) == round((1 - right) * sum(v["support"] for v in metrics["test"]["topic"]["by_label"].values()))
    assert topics == sorted(topics, reverse=True)


def test_predict_answers_arguments_stdin_and_files_in_order(trained):
    folder, _ = trained
    texts = ["Play a song by Imagine please", "weather"]
    first = run_main("predict", "out", *texts, folder=folder)
    assert first.returncode == 0, first.stderr
    assert [json.loads(line)["text"] for line in first.stdout.splitlines()] == texts
    assert set(json.loads(first.stdout.splitlines()[0])) == {"text", "topic", "names"}
    assert run_main("predict", "out", folder=folder, text="\n".join(texts)).stdout == first.stdout
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = run_main("predict", "out", "--input", "in.jsonl", "--output", "o.jsonl", "--tasks", "topic", folder=folder)
    assert done.returncode == 0, done.stderr
    written = [json.loads(line) for line in (folder / "o.jsonl").open(encoding="utf-8")]
    assert [row["id"] for row in written] == [0, 1]
    assert set(written[0]) == {"id", "text", "topic"}


def test_export_writes_a_stock_checkpoint(trained):
    folder, _ = trained
    done = run_main("export", "out", "--task", "names", "--output", "names", folder=folder)
    assert done.returncode == 0, done.stderr
    config = json.loads((folder / "names" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForTokenClassification"]
    assert "topic" in refused(run_main("export", "out", "--task", "nmaes", "--output", "x", folder=folder))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lerning_rate=1", "did you mean learning_rate"),
        ("encoder=./nowhere", "there is no folder"),
        ("datasets.d.data_files.train=gone.jsonl", "gone.jsonl"),
        ("datasets.d.tokens_column=words", "words"),
        ("tasks.topic.label_column=topics", "topics"),
        ("tasks.topic.label_list=[books, music]", "'weather' of task topic is not in label_list"),
        ("tasks.topic.problem_type=regression", "is not a number"),
        ("max_length=1000", "is more than"),
        ("datasets.d.splits={train: train, validation: validation, test: dev}", "dev"),
    ],
)
def test_wrong_input_is_one_message_and_leaves_nothing(trained, override, message):
    folder, _ = trained
    arguments = ("run.yaml", "--set", "training.output_dir=never", "--set", override)
    assert message in refused(run_main("check", *arguments[:1], *arguments[3:], folder=folder))
    assert message in refused(run_main("train", *arguments, folder=folder))
    assert not (folder / "never").exists()


@pytest.mark.parametrize("command", [("train",), ("check",), ("evaluate",), ("predict",), ("export",), ()])
def test_help_says_what_a_command_is_for(trained, command):
    done = run_main(*command, "--help", folder=trained[0])
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_an_interrupted_run_says_so_and_can_be_resumed(tmp_path):
    write_run(tmp_path, max_steps=100_000, eval_strategy="no", save_strategy="no", logging_steps=1)
    command = [sys.executable, "-m", "hf_mtl", "train", "run.yaml"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests started in the background inherit an ignored SIGINT; a shell's foreground command does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    history = tmp_path / "out" / "history.jsonl"
    for _ in range(600):
        if history.exists() and history.stat().st_size:
            break
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "the same command with --resume (in Python: resume=True) goes on from there" in errors
    assert "Traceback" not in errors
    step = int(next((tmp_path / "out" / "checkpoints").glob("step-*")).name.removeprefix("step-"))
    assert step == json.loads(history.read_text(encoding="utf-8").splitlines()[-1])["step"]
    assert f"stopped after step {step}" in run_main("train", "run.yaml", folder=tmp_path).stderr
    refused = run_main("train", "run.yaml", "--resume", "--set", "training.max_steps=20", folder=tmp_path)
    assert refused.returncode == 2
    assert "training.max_steps: 100000 there, 20 now" in refused.stderr
    anew = run_main("train", "run.yaml", "--overwrite", "--set", "training.max_steps=2", folder=tmp_path)
    assert anew.returncode == 0, anew.stderr
    again = run_main("train", "run.yaml", "--resume", "--set", "training.max_steps=2", folder=tmp_path)
    assert (again.returncode, again.stdout) == (
        0,
        f"the run in {tmp_path / 'out'} is finished: nothing is left to do\n",
    )


def test_a_signal_to_all_processes_of_a_run_whose_reader_has_gone_leaves_a_checkpoint(tmp_path):
    """As `timeout` and schedulers send it, to loader workers too; and as Ctrl-C ends the `tee` behind a pipe."""
    write_run(
        tmp_path, max_steps=100_000, eval_strategy="no", save_strategy="no", logging_steps=1, dataloader_num_workers=2
    )
    command = [sys.executable, "-m", "hf_mtl", "train", "run.yaml"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        history = tmp_path / "out" / "history.jsonl"
        for _ in range(600):
            if history.exists() and history.stat().st_size:
                break
            time.sleep(0.2)
        running.stdout.close()
        os.killpg(running.pid, signal.SIGTERM)
        errors = running.stderr.read()
        assert running.wait(timeout=120) == 143, errors
    assert "stopped after step" in errors
    assert "Traceback" not in errors
    (checkpoint,) = (tmp_path / "out" / "checkpoints").iterdir()
    assert (checkpoint / "state.json").exists()
