"""The command line: one thin function a command. Libraries are imported when a command needs them."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from hf_mtl import cli_hub
from hf_mtl.config import load_config
from hf_mtl.errors import ConfigError, FinishedError, StoppedError, UserError
from hf_mtl.run_file import UnreadableFileError, parse_yaml

app = typer.Typer(
    name="hf-mtl",
    help="Fine-tune one encoder for several text tasks, use it, and take every task out again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="The run file (YAML).", show_default=False)]
ModelFolder = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model's folder (a run's output_dir) or Hub id.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Overrides a key of the run file, e.g. training.seed=7. Repeatable."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint in output_dir, if there is one.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that lies in output_dir.")]
INTERRUPTED = 130


@app.callback()
def _commands() -> None:
    """Keeps `hf-mtl` a group of commands."""


@app.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Read a run file and its rows as training would, and print what they hold; trains nothing.

    Prints for each data set its rows and lengths, for each task its labels and their share, rows without a label or
    without text, words without a piece of their own, and texts that stand in both train and test; and what private
    layers cost. The model is made without its weights, so that what it cannot be is refused here too.
    """
    run = load_config(config, overrides or ())
    from hf_mtl.data.preparation import prepare
    from hf_mtl.data.report import print_report
    from hf_mtl.modeling.costs import cost_lines
    from hf_mtl.training.origin import origin

    console, start = Console(), origin(run)
    prepared = prepare(run, start.tokenizer, progress=_progress(console))
    tasks = list(prepared.tasks.values())
    body, heads = start.outline(tasks)
    why = start.why_all_shared(tasks)
    print_report(run, prepared, console)
    for line in [why] if why else cost_lines(body, heads.values()):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{config} is in order: {len(prepared.tasks)} tasks", markup=False, highlight=False)


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a run file's tasks, keep the best weights by validation, measure test once, and save.

    The model, its tokenizer, run.yaml, metrics.json, history.jsonl and checkpoints go to training.output_dir.
    Ctrl-C and SIGTERM finish the step and write a checkpoint (exit status 130 and 143); --resume goes on from there.

    Several GPUs: accelerate launch -m hf_mtl train CONFIG. Several processes on the CPU: torchrun --nproc_per_node 2
    -m hf_mtl train CONFIG.
    """
    run = load_config(config, overrides or ())
    from hf_mtl.training.trainer import MultiTaskTrainer

    with _stopped_at_once(run.training.output_dir):
        MultiTaskTrainer.from_config(run, overwrite=overwrite, resume=resume).train()


@app.command()
def evaluate(
    model: ModelFolder,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="A run file whose rows are read instead of the model's own.")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Writes all metrics there.")] = None,
    errors: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Writes the wrong answers there as JSON lines, the most confident first."),
    ] = None,
) -> None:
    """Measure a trained model on a split of its own run file, or of another one with tasks of the same names."""
    from hf_mtl.evaluation.errors import write_errors
    from hf_mtl.evaluation.splits import evaluate_saved
    from hf_mtl.training.progress import results_table

    console = Console()
    saved = evaluate_saved(model, split, config, progress=_progress(console))
    metrics = {task: result.metrics for task, result in saved.results.items()}
    console.print(results_table({split: metrics}))
    if json_file:
        Path(json_file).write_text(json.dumps(metrics, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if errors:
        count = write_errors(Path(errors), saved)
        console.print(f"{count} wrong answers in {errors}", markup=False, highlight=False)


@app.command()
def predict(
    model: ModelFolder,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts; none: lines of stdin.")] = None,
    input_file: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE", help="A .txt (a line a text), .jsonl, .json, .csv or .tsv, also .gz."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where the JSON lines go; stdout by default.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="The tasks to answer; all by default.")] = None,
    text_column: Annotated[str, typer.Option(help="The column of the text in --input.")] = "text",
    text_pair_column: Annotated[str | None, typer.Option(help="The column of the second text, for pairs.")] = None,
    csv: Annotated[
        str | None, typer.Option(metavar="KEYS", help="How a csv --input is written: '{sep: \";\", encoding: cp1252}'.")
    ] = None,
    aggregation_strategy: Annotated[
        str, typer.Option(help="How pieces become entities: none, simple, first, average, max.")
    ] = "simple",
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in one pass of the encoder.")] = 32,
) -> None:
    """Answer texts with all tasks in one pass: a JSON line a text, in the order of the input.

    Other columns of --input are kept. Answers are those of the stock transformers pipelines.
    """
    if texts and input_file:
        raise UserError("give texts or --input, not both")
    from hf_mtl.inference.files import predict_file, predict_texts, read_texts
    from hf_mtl.inference.pipeline import MultiTaskPipeline

    pipe = MultiTaskPipeline.from_pretrained(model)
    options: dict[str, Any] = {"tasks": [name.strip() for name in tasks.split(",")]} if tasks else {}
    if any("aggregation_strategy" in task.pipeline_options for task in pipe.model.tasks.values()):
        options["aggregation_strategy"] = aggregation_strategy
    if not input_file:
        # A person at a terminal gets each answer before the next line is typed.
        size = 1 if not texts and sys.stdin.isatty() else batch_size
        predict_texts(pipe, texts or read_texts(sys.stdin), output, batch_size=size, **options)
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("answering", total=None)
        predict_file(
            pipe,
            input_file,
            output,
            text_column=text_column,
            text_pair_column=text_pair_column,
            csv=None if csv is None else _keys(csv, "--csv"),
            batch_size=batch_size,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
            **options,
        )


@app.command()
def export(
    model: ModelFolder,
    task: Annotated[str, typer.Option(help="The task to take out.")],
    output: Annotated[str, typer.Option(metavar="DIR", help="The folder to write; it must not hold anything.")],
) -> None:
    """Write one task as a stock checkpoint, which transformers loads without hf_mtl."""
    from hf_mtl.inference.export import export_task

    task_type = export_task(model, task, output)
    typer.echo(f"{task} is in {output}: transformers.pipeline({task_type!r}, model={output!r}) loads it")


@app.command()
def merge(
    model: ModelFolder,
    output: Annotated[str, typer.Option(metavar="DIR", help="The folder to write; it must not hold anything.")],
) -> None:
    """Merge the adapter that all tasks share into the encoder: a model without adapters that answers the same.

    Adapters of single tasks are merged by export, task by task.
    """
    from hf_mtl.hub.card import renew_card
    from hf_mtl.inference.export import merge_model

    merge_model(model, output)
    renew_card(Path(output))
    typer.echo(f"the model without adapters is in {output}")


@app.command("add-task")
def add_task(
    model: ModelFolder,
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    private_layers: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Train copies of the encoder's top N layers for the new tasks, not adapters."
        ),
    ] = 0,
) -> None:
    """Train the tasks of a run file on a saved model that stays as it is, and save both as one model.

    Each new task gets a head and a LoRA adapter of its own (the run file's lora says of what size; its scope is not
    read); or with --private-layers a head, and top layers of its family's own. The encoder, the tokenizer and
    max_length are the model's. The model's own tasks answer as before.
    """
    run = load_config(config, overrides or ())
    from hf_mtl.training.trainer import MultiTaskTrainer

    with _stopped_at_once(run.training.output_dir):
        MultiTaskTrainer.from_config(
            run, overwrite=overwrite, resume=resume, onto=model, private_layers=private_layers
        ).train()


@app.command("drop-task")
def drop_task(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder.", show_default=False)],
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task to take out.", show_default=False)],
) -> None:
    """Take a task out of a model's folder for good; the other tasks answer as before."""
    from hf_mtl.hub.card import renew_card
    from hf_mtl.inference.export import drop_saved_task

    drop_saved_task(model, task)
    renew_card(Path(model))
    typer.echo(f"{task} is no longer in {model}")


app.command()(cli_hub.card)
app.command()(cli_hub.push)


@contextmanager
def _stopped_at_once(output_dir: str) -> Iterator[None]:
    """Ends a training run that is interrupted where it cannot finish its step."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped at once; --resume goes on from the newest checkpoint in {output_dir}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _keys(text: str, option: str) -> dict[str, Any]:
    """A mapping in YAML, as the run file has it."""
    try:
        value, problems = parse_yaml(text)
    except UnreadableFileError as error:
        raise UserError(f"{option}: {error}") from None
    if problems or not isinstance(value, dict):
        raise UserError(f"{option}: {text!r} is no mapping; write it as in a run file, {{encoding: cp1252}}")
    return value


def _progress(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Runs the command line. A fault of the user's input is one message on stderr and exit status 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Half a surrogate pair, in a text or the name of a file, is no UTF-8; as an escape it is what JSON calls it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except FinishedError as error:
        _tell(error, err=False)
        sys.exit(0)
    except UserError as error:
        _tell(error)
        sys.exit(2)
    except StoppedError as error:
        _tell(error)
        sys.exit(error.status)


def _tell(error: UserError | StoppedError, *, err: bool = True) -> None:
    # Every process of a launcher reads the run file; one a machine tells what is wrong with it.
    told = error.told or (isinstance(error, ConfigError) and os.environ.get("LOCAL_RANK", "0") != "0")
    if not told:
        typer.echo(str(error), err=err)
