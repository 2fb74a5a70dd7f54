"""The model card: written from what a model's folder says, from one template."""

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard

from hf_mtl.errors import UserError
from hf_mtl.hub.card_data import card_data
from hf_mtl.hub.card_sections import data_section, limits_section, results_section, tasks_section, training_section
from hf_mtl.hub.card_use import packages, summary, usage, usage_notes
from hf_mtl.hub.contents import CARD, Contents, read_contents

TEMPLATE = Path(__file__).with_name("card_template.md")
MARK = re.compile(r"\n<!-- written by hf-mtl card, ([0-9a-f]{16}): a text that was changed is kept -->\s*\Z")
LOADED = re.compile(r'MultiTaskPipeline\.from_pretrained\("([^"]+)"\)')
HEAD = re.compile(r"\A---\n.*?\n---\n", re.S)
OURS = {
    "base_model", "base_model_relation", "datasets", "library_name", "metrics", "model-index", "model_name",
    "pipeline_tag", "tags",
}  # fmt: skip
"""Metadata that says what happened; the rest, such as a licence, is the user's to add."""


def card_text(contents: Contents, name: str, task: str | None = None, old: Sequence[str] = ()) -> str:
    """The text of a model's card.

    Args:
        contents: the model's folder.
        name: what `from_pretrained` takes for the model: its repository, or its folder.
        task: of a single task's stock checkpoint; None for the multi-task model.
        old: earlier cards, whose metadata that is nobody's but the user's is carried over, such as a licence.
    """
    data = card_data(contents, name, task)
    # Of a card without metadata the library would say so, in the middle of a run.
    for card in (card for card in old if card.lstrip().startswith("---")):
        given = ModelCard(card, ignore_metadata_errors=True).data.to_dict()
        for key in given.keys() - OURS:
            if data.get(key) is None:
                data[key] = given[key]
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=name.rstrip("/").rsplit("/", 1)[-1],
        summary=summary(contents, task),
        tasks=tasks_section(contents, task),
        packages=packages(contents, task),
        usage=usage(contents, name, task),
        usage_notes=usage_notes(contents, name, task),
        data=data_section(contents),
        results=results_section(contents, task),
        training=training_section(contents, task),
        limits=limits_section(contents, task),
        citation=_citation(),
    )
    text = str(card).rstrip("\n") + "\n"
    return f"{text}\n<!-- written by hf-mtl card, {_digest(text)}: a text that was changed is kept -->\n"


def write_card(folder: Path, name: str | None = None, *, overwrite: bool = False) -> Path:
    """Writes the card of a model's folder; what somebody has added to its metadata stays.

    Args:
        folder: the model's.
        name: what the usage code in it calls the model; the folder by default.
        overwrite: whether a card whose text somebody has changed or written is replaced.

    Raises:
        UserError: if the folder holds no model, or a card that is not to be replaced, or cannot be written.
    """
    contents, card = read_contents(folder), folder / CARD
    if not overwrite and is_changed(old := read_card(card)):
        raise UserError(f"{card} was changed by hand; keep it, or write it anew with --overwrite")
    own = str(folder) if folder.name not in ("", "..") else str(folder.resolve())
    try:
        card.write_text(card_text(contents, name or own, old=[] if overwrite else [old]), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{card} cannot be written: {error.strerror}") from error
    return card


def renew_card(folder: Path) -> None:
    """Writes the card of a model that has changed, if it has one whose text nobody has changed by hand."""
    if (folder / CARD).exists() and not is_changed(read_card(folder / CARD)):
        write_card(folder)


def read_card(card: Path) -> str:
    """A card's text, however it is encoded; nothing if there is none."""
    return card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""


def is_changed(text: str) -> bool:
    """Whether a card says something else below its metadata than what was written here."""
    mark = MARK.search(text)
    return bool(text) and (mark is None or mark.group(1) != _digest(text[: mark.start()]))


def published_card(contents: Contents, repository: str, there: str = "") -> str | None:
    """The card for a repository; None if the one that is there was changed there, and stays.

    A card of the folder whose text somebody has changed goes as it is, but for the folder's name in its code.

    Args:
        contents: the model's folder.
        repository: its id.
        there: the card that is in the repository.
    """
    own = read_card(contents.folder / CARD)
    if is_changed(own):
        found = LOADED.search(own)
        return own if found is None else own.replace(found.group(1), repository)
    if is_changed(there):
        return None
    return card_text(contents, repository, old=[own, there])


def _digest(text: str) -> str:
    """Of the text below the metadata."""
    return hashlib.sha256(HEAD.sub("", text.replace("\r\n", "\n")).strip().encode()).hexdigest()[:16]


def _citation() -> str:
    return (
        "@software{hf_mtl,\n"
        "  title = {hf\\_mtl: multi-task fine-tuning of one encoder with stock heads},\n"
        f"  version = {{{version('hf_mtl')}}},\n"
        "  license = {Apache-2.0}\n"
        "}"
    )
