"""The commands of publishing, which `cli` takes in."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model's folder (a run's output_dir).", show_default=False)
]


def push(
    model: Folder,
    repository: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="user/name, or a name of your own.", show_default=False)
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository, if it is made, a private one.")
    ] = False,
    adapters_only: Annotated[
        bool,
        typer.Option(
            "--adapters-only", help="Send adapters and heads; refused if the model needs an encoder of its own."
        ),
    ] = False,
    per_task: Annotated[
        bool,
        typer.Option("--per-task", help="Also publish each task as an ordinary checkpoint, user/name-task."),
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch; made if it is not there. main by default.")
    ] = None,
    message: Annotated[str, typer.Option(help="The message of the commit.")] = "Upload multi-task model",
) -> None:
    """Publish a model on the Hub: weights, tokenizer, config, run file, metrics and card, in one commit.

    The run file goes without base_dir, and of local paths the file's name alone. The token is that of HF_TOKEN or of
    `hf auth login`. Large files that the Hub has already are not sent again.
    """
    from hf_mtl.hub.push import push_model

    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        typer.echo(line)

    try:
        push_model(
            Path(model),
            repository,
            private=private or None,
            adapters_only=adapters_only,
            per_task=per_task,
            revision=revision,
            message=message,
            say=say,
        )
    except KeyboardInterrupt:
        typer.echo("stopped; nothing else was published" if told else "stopped; nothing was published", err=True)
        raise typer.Exit(130) from None


def card(
    model: Folder,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a card that was changed by hand.")] = False,
) -> None:
    """Write the model card of a model's folder (README.md) anew, from what the folder says."""
    from hf_mtl.hub.card import write_card

    typer.echo(f"the card is in {write_card(Path(model), overwrite=overwrite)}")
