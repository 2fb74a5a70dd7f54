"""The model card: written from what a model's folder says, from one template."""

import hashlib
import re
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard

from hf_mtl.errors import UserError
from hf_mtl.hub.card_data import card_data
from hf_mtl.hub.card_sections import data_section, limits_section, results_section, tasks_section, training_section
from hf_mtl.hub.card_use import packages, summary, usage, usage_notes
from hf_mtl.hub.contents import CARD, Contents, read_contents

TEMPLATE = Path(__file__).with_name("card_template.md")
MARK = re.compile(r"\n<!-- written by hf-mtl card, ([0-9a-f]{16}): a card that was changed is kept -->\n\Z")


def card_text(contents: Contents, name: str, task: str | None = None) -> str:
    """The text of a model's card.

    Args:
        contents: the model's folder.
        name: what `from_pretrained` takes for the model: its repository, or its folder.
        task: of a single task's stock checkpoint; None for the multi-task model.
    """
    card = ModelCard.from_template(
        card_data(contents, name, task),
        template_path=str(TEMPLATE),
        title=name.rstrip("/").rsplit("/", 1)[-1],
        summary=summary(contents, task),
        tasks=tasks_section(contents, task),
        packages=packages(contents, task),
        usage=usage(contents, name, task),
        usage_notes=usage_notes(contents, name, task),
        data=data_section(contents, task),
        results=results_section(contents, task),
        training=training_section(contents),
        limits=limits_section(contents, task),
        citation=_citation(),
    )
    text = str(card).rstrip("\n") + "\n"
    return f"{text}\n<!-- written by hf-mtl card, {_digest(text)}: a card that was changed is kept -->\n"


def write_card(folder: Path, name: str | None = None, *, overwrite: bool = False) -> Path:
    """Writes the card of a model's folder.

    Args:
        folder: the model's.
        name: what the usage code in it calls the model; the folder by default.
        overwrite: whether a card that somebody has changed or written is replaced.

    Raises:
        UserError: if the folder holds no model, or a card that is not to be replaced, or cannot be written.
    """
    contents, card = read_contents(folder), folder / CARD
    if not overwrite and is_changed(card):
        raise UserError(f"{card} was changed by hand; keep it, or write it anew with --overwrite")
    try:
        card.write_text(card_text(contents, name or str(folder)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{card} cannot be written: {error.strerror}") from error
    return card


def renew_card(folder: Path) -> None:
    """Writes the card of a model that has changed, if it has one that nobody has changed by hand."""
    if (folder / CARD).exists() and not is_changed(folder / CARD):
        write_card(folder)


def is_changed(card: Path) -> bool:
    """Whether there is a card that is not just as it was written here."""
    if not card.exists():
        return False
    text = card.read_text(encoding="utf-8", errors="replace")
    mark = MARK.search(text)
    return mark is None or mark.group(1) != _digest(text[: mark.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _citation() -> str:
    return (
        "@software{hf_mtl,\n"
        "  title = {hf\\_mtl: multi-task fine-tuning of one encoder with stock heads},\n"
        f"  version = {{{version('hf_mtl')}}},\n"
        "  license = {Apache-2.0}\n"
        "}"
    )
