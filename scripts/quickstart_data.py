"""Write the quickstart's data: news lines with a topic and tagged entities, and reviews with a sentiment.

The sentences are made from this project's own wordings and names (`quickstart/wordings.json`, `quickstart/names.json`):
a wording such as "{person} [won|lost] in {place}." has alternatives in brackets and names in braces. Wordings and names
are kept apart by split, so a model is tested on sentences and names that it has never seen.
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "quickstart"
OUTPUT_DIR = Path(__file__).parents[1] / "task_configs" / "quickstart_data"
SPLITS = ("train", "validation", "test")
NEWS_ROWS = {"train": (520, 360, 480), "validation": (66, 54, 60), "test": (120, 96, 104)}
"""Rows a split with topic and tags, with a topic alone, and with tags alone (short messages)."""
REVIEW_ROWS = {"train": 1080, "validation": 126, "test": 210}
ENTITY_OF = {"person": "person", "place": "place", "organisation": "organisation", "product": "product"}
ENTITY_OF |= dict.fromkeys(("day", "month", "when"), "date")
"""The slots of a wording that are entities, and their type."""
SUBJECTS = ("item", "venue", "service")
"""What reviews are about."""
NAME_SLOTS = {*ENTITY_OF, "given", "family", "organisation_word", "brand"} - {"person"}
"""The slots whose text is a name that only one split may use (of a person: the given and the family name)."""
SLOT_OR_CHOICE = re.compile(r"\{(\w+)\}|\[([^\]]+)\]")
TOKEN = re.compile(r"\w+(?:[-'’.]\w+)*|['’]\w+|[^\w\s]")


@dataclass(frozen=True)
class Sentence:
    """A sentence in pieces, with where it came from.

    Args:
        pieces: (text, entity type or None), to be joined as they stand.
        wordings: the wordings it was made from.
        names: the names in it.
    """

    pieces: tuple[tuple[str, str | None], ...]
    wordings: frozenset[str]
    names: frozenset[str]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def tokens(self) -> Iterator[tuple[str, str]]:
        """(token, BIO tag) pairs; the tokens stand in the text in this order."""
        for text, entity in self.pieces:
            for place, token in enumerate(TOKEN.findall(text)):
                yield token, "O" if entity is None else f"{'I' if place else 'B'}-{entity}"


@dataclass(frozen=True)
class Row:
    """A line of a file (`cells`) and the sentence behind it."""

    cells: dict[str, Any]
    sentence: Sentence


class Writer:
    """Makes sentences for one split, never the same twice.

    Args:
        split: whose words and names are used.
        generator: the only source of chance.
    """

    def __init__(self, split: str, generator: random.Random) -> None:
        names = json.loads((SOURCES / "names.json").read_text(encoding="utf-8"))
        self.people: list[dict] = names["people"]
        self.lists: dict[str, Any] = names["lists"]
        self.split = split
        self.random = generator
        self.seen: set[str] = set()

    def write(self, choose: Callable[[], Sequence[str]]) -> Sentence:
        """A sentence that was not written before, of the wordings that `choose` gives."""
        for _ in range(1000):
            wordings = choose()
            names: set[str] = set()
            pieces = [piece for piece in self._fill(" ".join(wordings), names, subject={}) if piece[0]]
            if wordings[0].startswith(("{", "[")):
                pieces[0] = (pieces[0][0][0].upper() + pieces[0][0][1:], pieces[0][1])
            sentence = Sentence(tuple(pieces), frozenset(wordings), frozenset(names))
            if sentence.text not in self.seen:
                self.seen.add(sentence.text)
                return Sentence(tuple(self._roughen(pieces)), sentence.wordings, sentence.names)
        raise ValueError(f"the {self.split} wordings give too few different sentences, for example {wordings}")

    def _fill(self, wording: str, names: set[str], subject: dict[str, str]) -> Iterator[tuple[str, str | None]]:
        """The pieces of a wording with a word in every slot; a review keeps to its `subject`."""
        end = 0
        for match in SLOT_OR_CHOICE.finditer(wording):
            yield wording[end : match.start()], None
            slot, choices = match.groups()
            if choices:
                yield self.random.choice(choices.split("|")), None
            elif slot in SUBJECTS:
                yield subject.setdefault(slot, self.random.choice(self._words(slot))), None
            elif slot == "person":
                yield self._person(names), "person"
            else:
                yield self._name(slot, self._words(slot), names), ENTITY_OF.get(slot)
            end = match.end()
        yield wording[end:], None

    def _words(self, slot: str) -> list[str]:
        if slot in ("given", "family"):
            return self.random.choice(self.people)[slot][self.split]
        words = self.lists[slot]
        return words[self.split] if isinstance(words, dict) else words

    def _name(self, slot: str, words: Sequence[str], names: set[str]) -> str:
        name = "".join(text for text, _ in self._fill(self.random.choice(words), names, {}))
        if slot in NAME_SLOTS:
            names.add(name)
        return name

    def _person(self, names: set[str]) -> str:
        person = self.random.choice(self.people)
        parts = self.random.choices([person["order"].split(), ["given"], ["family"]], [70, 15, 15])[0]
        return " ".join(self._name(part, person[part][self.split], names) for part in parts)

    def _roughen(self, pieces: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
        """Some sentences as people type them: lower case, a typo, no full stop, an exclamation."""
        manner = self.random.choices(["as it is", "lower", "typo", "no stop", "loud"], [70, 14, 8, 4, 4])[0]
        if manner in ("lower", "no stop", "loud") and pieces[-1][1] is None:
            stop = "!!" if manner == "loud" else ""
            pieces = [*pieces[:-1], (pieces[-1][0].rstrip(".") + stop, None)]
        if manner == "lower":
            return [(text.lower(), entity) for text, entity in pieces]
        if manner == "typo":
            place = self.random.choice([place for place, (_, entity) in enumerate(pieces) if entity is None])
            pieces = [*pieces[:place], (self._misspell(pieces[place][0]), None), *pieces[place + 1 :]]
        return pieces

    def _misspell(self, text: str) -> str:
        words = [match.span() for match in re.finditer(r"[a-z]{5,}", text)]
        if not words:
            return text
        start, end = self.random.choice(words)
        at = self.random.randrange(start + 1, end - 2)
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def build(seed: int = 0) -> dict[str, dict[str, list[Row]]]:
    """The rows by data set (`news`, `reviews`) and split; the same for the same seed."""
    wordings = json.loads((SOURCES / "wordings.json").read_text(encoding="utf-8"))
    generator = random.Random(seed)
    rows: dict[str, dict[str, list[Row]]] = {"news": {}, "reviews": {}}
    for split in SPLITS:
        writer = Writer(split, generator)
        rows["news"][split] = _news(writer, wordings)
        rows["reviews"][split] = _reviews(writer, wordings)
    assert_held_out(rows)
    return rows


def _news(writer: Writer, wordings: Mapping[str, Any]) -> list[Row]:
    both, topic_alone, tags_alone = NEWS_ROWS[writer.split]
    topics = list(wordings["news"])
    choice = writer.random.choice
    rows = []
    for place in range(both + topic_alone):
        topic = topics[place % len(topics)]
        lines = wordings["news"][topic][writer.split]
        rows.append(_news_row(writer.write(lambda lines=lines: [choice(lines)]), topic, has_tags=place < both))
    messages = wordings["messages"][writer.split]
    rows += [_news_row(writer.write(lambda: [choice(messages)]), None, has_tags=True) for _ in range(tags_alone)]
    writer.random.shuffle(rows)
    return rows


def _news_row(sentence: Sentence, topic: str | None, *, has_tags: bool) -> Row:
    tokens, tags = zip(*sentence.tokens(), strict=True)
    cells = {"text": sentence.text, "tokens": list(tokens), "tags": list(tags) if has_tags else None, "topic": topic}
    return Row(cells, sentence)


def _reviews(writer: Writer, wordings: Mapping[str, Any]) -> list[Row]:
    sentiments = list(wordings["reviews"])
    rows = []
    for place in range(REVIEW_ROWS[writer.split]):
        sentiment = sentiments[place % len(sentiments)]
        sentence = writer.write(lambda sentiment=sentiment: _review(writer, wordings, sentiment))
        rows.append(Row({"text": sentence.text, "sentiment": sentiment}, sentence))
    writer.random.shuffle(rows)
    return rows


def _review(writer: Writer, wordings: Mapping[str, Any], sentiment: str) -> list[str]:
    """One or two judgements on the same thing, at times between words that say nothing of the sentiment."""
    choice, chance = writer.random.choice, writer.random.random
    judgements = wordings["reviews"][sentiment][writer.split]
    review = [choice(judgements)]
    if chance() < 0.5:
        thing = next(slot for slot in SUBJECTS if "{" + slot + "}" in review[0])
        review.append(choice([line for line in judgements if "{" + thing + "}" in line and line != review[0]]))
    if chance() < 0.25:
        review.insert(0, choice(wordings["openings"][writer.split]))
    if chance() < 0.2:
        review.append(choice(wordings["closings"][writer.split]))
    return review


def assert_held_out(rows: Mapping[str, Mapping[str, Sequence[Row]]]) -> None:
    """Check that no wording, name or text of a split occurs in another.

    Names are also looked for in the other splits' texts, whatever their case, so that "Victoria" does not hide in
    "Lake Victoria".

    Raises:
        AssertionError: with what the two splits share.
    """
    for split, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        held_out = [row for splits in rows.values() for row in splits[split]]
        others = [row for splits in rows.values() for row in splits[other]]
        known_wordings = frozenset().union(*(row.sentence.wordings for row in others))
        known_text = "\n".join(row.cells["text"] for row in others).lower()
        known_texts = {row.cells["text"] for row in others}
        names = frozenset().union(*(row.sentence.names for row in held_out))
        shared = {row.cells["text"] for row in held_out} & known_texts
        shared |= frozenset().union(*(row.sentence.wordings for row in held_out)) & known_wordings
        shared |= {name for name in names if _has_name(known_text, name.lower())}
        assert not shared, f"{split} and {other} share {sorted(shared)}"


def _has_name(text: str, name: str) -> bool:
    """Whether `name` stands in `text` as whole words; the plain search comes first, which is much faster."""
    return name in text and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def save(rows: Mapping[str, Mapping[str, Sequence[Row]]], output_dir: Path) -> list[Path]:
    """Write `<data set>/<split>.jsonl` files, and give their paths."""
    paths = []
    for name, splits in rows.items():
        for split, split_rows in splits.items():
            path = output_dir / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row.cells, ensure_ascii=False) + "\n" for row in split_rows]
            path.write_bytes("".join(lines).encode("utf-8"))
            paths.append(path)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Write the quickstart's data as JSON lines: news/{train,validation,test}.jsonl (text, tokens, BIO "
        "tags or null, topic or null) and reviews/{train,validation,test}.jsonl (text, sentiment). Names and wordings "
        "of validation and test never occur in train.",
        epilog="Then: hf-mtl train task_configs/quickstart.yaml",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=OUTPUT_DIR,
        help="folder for the two data sets, made if missing; files of the same names are overwritten "
        "(default: task_configs/quickstart_data, where task_configs/quickstart.yaml looks for them)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="same seed, same files byte for byte (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    rows = build(options.seed)
    for path in save(rows, options.output_dir):
        print(f"{path}: {len(rows[path.parent.name][path.stem])} rows")


if __name__ == "__main__":
    main()
