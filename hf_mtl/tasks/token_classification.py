"""Token classification: a tag for each word (named entities, slots, parts of speech)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import datasets
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForTokenClassification, PreTrainedConfig, TokenClassificationPipeline

from hf_mtl.config_keys import TaskConfig
from hf_mtl.tasks.labels import (
    LabelError,
    LabelIndex,
    class_name,
    folded,
    is_integer,
    label_name,
    labels_within,
    readable,
    shown,
)
from hf_mtl.tasks.spans import Spans, read_spans, span_tags
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.tags import bio_labels, find_scheme, split_tag, to_bio
from hf_mtl.tasks.task import Answer, Cells, Task, Window, balanced_weights
from hf_mtl.tasks.word_pieces import home_window, word_pieces

if TYPE_CHECKING:
    import evaluate

IGNORED = -100


class TokenClassification(Task):
    """A tag for each word of a text; a word's first piece carries the tag, its other pieces none."""

    auto_class = AutoModelForTokenClassification
    pipeline_class = TokenClassificationPipeline
    pipeline_options = ("aggregation_strategy", "stride", "ignore_labels")
    family = "token"
    reads_windows = True
    metric_names = {
        "BIO": ("f1", "precision", "recall", "accuracy"),
        "none": ("f1_macro", "accuracy"),
    }

    @classmethod
    def stock_spec(cls, name: str, config: PreTrainedConfig) -> TaskSpec:
        labels = [config.id2label[place] for place in range(config.num_labels)]
        # The labels of any scheme have prefixes; those of a model that never gives B- (IOB1) too.
        scheme = "BIO" if any(split_tag(label)[0] for label in labels) else "none"
        return TaskSpec(name=name, task_type="token-classification", label_list=labels, tag_scheme=scheme)

    @classmethod
    def from_rows(cls, name: str, config: TaskConfig, cells: Cells, class_names: list[str] | None, pair: bool) -> Self:
        listed = [label_name(label) for label in config.label_list] if config.label_list is not None else None
        named = listed or class_names
        if config.spans_column is not None:
            scheme = "BIO"
        else:
            scheme = config.tag_scheme or find_scheme(_tags(cells, _integer_names(class_names, listed)))
        if named is None and config.spans_column is not None:
            named = labels_within(cells(), lambda cell: [span.label for span in read_spans(cell).found])
        elif named is None:
            # A tag that only other tags show to be wrong is found when its row is read, where the row is known.
            named = labels_within(cells(), tags_of)
            if scheme != "none":
                named = [tag for tag in named if split_tag(tag)[0]]
                types = {split_tag(tag)[1] for tag in named}
                if len(types) > len(set(map(folded, types))):
                    labels_within(cells(), lambda cell: [split_tag(str(tag))[1] for tag in tags_of(cell)])  # refuses
        spec = TaskSpec(
            name=name,
            task_type="token-classification",
            label_list=list(named) if scheme == "none" else _labels(named, config),
            tag_scheme="none" if scheme == "none" else "BIO",
        )
        task = cls(spec, label_smoothing_factor=config.label_smoothing_factor)
        if config.class_weight is not None and named:
            labels = spec.label_list or []
            counts: Counter[str] = Counter()
            if config.class_weight == "balanced":
                read = task.reader(config, cells, class_names, Counter())
                counts.update(labels[tag] for row in readable(cells(), read) for tag in row if tag != IGNORED)
            task.class_weight = balanced_weights(_by_tag(config.class_weight, labels), labels, counts)
        return task

    @classmethod
    def cell_key(cls, config: TaskConfig, cell: Any) -> Any:
        if config.spans_column is None:
            return cell
        return [list(span) for span in read_spans(cell).found]

    def reader(
        self, config: TaskConfig, cells: Cells, class_names: list[str] | None, notes: Counter[str]
    ) -> Callable[[Any], Any]:
        if config.spans_column is not None:
            return partial(read_spans, names=class_names)
        labels = self.spec.label_list or []
        listed = [label_name(label) for label in config.label_list] if config.label_list is not None else None
        names = _integer_names(class_names, listed)
        scheme = "none" if self.spec.tag_scheme == "none" else config.tag_scheme or find_scheme(_tags(cells, names))
        # A split whose tags are all O shows no scheme of its own.
        scheme = "BIO" if scheme == "none" and self.spec.tag_scheme == "BIO" else scheme
        index = LabelIndex(labels, self.name, normalise=None)

        def read(cell: Any) -> list[int]:
            tags = tag_names(cell, names)
            if scheme != "none":
                tags, repaired = to_bio(tags, scheme)
                notes["tags that break their scheme, read as the beginning of an entity"] += repaired
            return [IGNORED if tag is None else index(tag) for tag in tags]

        return read

    def columns(self) -> dict[str, Any]:
        return {key: datasets.List(datasets.Value("int32")) for key in ("labels", "words", "pieces", "tags")}

    def label_counts(self, label: Any) -> Mapping[str, int]:
        if isinstance(label, Spans):
            return Counter(span.label for span in label.found)
        names = [self.spec.label_list[tag] for tag in label if tag != IGNORED] if self.spec.label_list else []
        if self.spec.tag_scheme == "none":
            return Counter(names)
        return Counter(split_tag(name)[1] for name in names if name.startswith("B-"))

    def encode(self, label: Any, windows: Sequence[Window], words: Sequence[tuple[int, int]] | None) -> list[dict]:
        if label is None:
            return [_columns(window, {}, []) for window in windows]
        if isinstance(label, Spans):
            named = {name: number for number, name in enumerate(self.spec.label_list or ())}
            types = [name.removeprefix("B-") for name in named if name.startswith("B-")]
            place = LabelIndex(types, self.name, normalise=None)
            spans = Spans(tuple(span._replace(label=types[place(span.label)]) for span in label.found))
            label = [named[tag] for tag in span_tags(spans, words or ())]
        if words is None or len(label) != len(words):
            raise LabelError(f"{len(label)} tags for {len(words or ())} words; every word needs one tag")
        places = [word_pieces(window, words, continued=number > 0) for number, window in enumerate(windows)]
        counted: list[list[tuple[int, int, int, bool]]] = [[] for _ in windows]
        for word, tag in enumerate(label):
            home = home_window(places, windows, word)
            piece, own = places[home].get(word, (-1, False))
            counted[home].append((word, piece, tag, own))
        return [
            _columns(window, {piece: tag for _, piece, tag, own in found if own}, found)
            for window, found in zip(windows, counted, strict=True)
        ]

    def notes(self, encoded: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
        tagged = sum(tag != IGNORED for columns in encoded for tag in columns["tags"])
        return {"words without a piece of their own": tagged - sum(columns["items"] for columns in encoded)}

    def collate(self, sequences: Sequence[Mapping[str, Any]], length: int) -> dict[str, Tensor]:
        labels = torch.full((len(sequences), length), IGNORED, dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            tags = sequence["labels"]
            labels[row, : len(tags)] = torch.as_tensor(tags, dtype=torch.int64)
        return {"labels": labels}

    def items(self, labels: Mapping[str, Tensor]) -> Tensor:
        return (labels["labels"] != IGNORED).sum()

    def loss(self, logits: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        target = labels["labels"].reshape(-1)
        each = functional.cross_entropy(
            logits.float().reshape(-1, self.num_labels),
            target,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.label_smoothing_factor,
        )
        if self.class_weight is not None:
            each = each * self.class_weight.to(logits.device)[target.clamp(min=0)]
        return each.sum(), self.items(labels)

    def read(self, logits: Tensor, sequence: Mapping[str, Any]) -> Any:
        scores, tags = logits.float().softmax(dim=-1).max(dim=-1)
        return tags.tolist(), scores.tolist()

    def join(self, parts: Sequence[tuple[Mapping[str, Any], Any]]) -> Answer:
        labels = self.spec.label_list or []
        nothing = "O" if self.spec.tag_scheme == "BIO" else labels[0]
        found: list[tuple[int, str, str, float]] = []
        for sequence, (tags, scores) in parts:
            before = -1
            for word, piece, tag in zip(sequence["words"], sequence["pieces"], sequence["tags"], strict=True):
                predicted, score = (labels[tags[piece]], scores[piece]) if piece >= 0 else (nothing, 1.0)
                if piece == before and split_tag(predicted)[0] == "B" and nothing == "O":
                    # One answer for the words of a piece is one entity, which begins with the first of them.
                    predicted = f"I-{split_tag(predicted)[1]}"
                before = piece
                if tag != IGNORED:
                    found.append((word, predicted, labels[tag], score))
        found.sort()
        score = min((entry[3] for entry in found), default=1.0)
        words, predictions = [entry[0] for entry in found], [entry[1] for entry in found]
        return Answer(predictions, [entry[2] for entry in found], score, words=words)

    def metric(self) -> "evaluate.Metric":
        from hf_mtl.metrics.spans import SpanMetric
        from hf_mtl.metrics.tags import TagMetric

        return (SpanMetric if self.spec.tag_scheme == "BIO" else TagMetric)(self.spec.label_list or [])

    def shown_label(self, label: Any) -> Any:
        return label


def _by_tag(weights: Any, labels: Sequence[str]) -> Any:
    """Weights of tags; that of a type holds for its B- and I-."""
    if not isinstance(weights, Mapping):
        return weights
    types = {name[2:] for name in labels if name.startswith("B-")}
    return {
        tag: weight
        for name, weight in weights.items()
        for tag in ((f"B-{name}", f"I-{name}") if name in types and name not in labels else (name,))
    }


def _labels(named: Sequence[str], config: TaskConfig) -> list[str]:
    """The label list of tags that mark spans. Labels of spans are types, which may look like tags ("E-mail")."""
    if config.spans_column is None or "O" in named:
        return bio_labels(named)
    return ["O", *(prefix + name for name in named for prefix in ("B-", "I-"))]


def tag_names(cell: Any, names: Sequence[str] | None) -> list[str | None]:
    """The tags of a row as names: a list, or text cut at blanks; integers are places in `names`, "" and NaN are null.

    Raises:
        LabelError: if the cell is neither, or an integer has no name.
    """
    return [None if tag is None else _tag_name(tag, names) for tag in _tags_of_words(cell)]


def _tags_of_words(cell: Any) -> list[Any]:
    tags = cell.split() if isinstance(cell, str) else cell
    if not isinstance(tags, list):
        raise LabelError(f"tags {shown(cell)} are not a list; write a tag for each word")
    return [None if tag in (None, "") or tag != tag else tag for tag in tags]


def tags_of(cell: Any) -> list[Any]:
    """The tags of a row that say something, as they are written.

    Raises:
        LabelError: if the cell has no tags, or one of them can be none.
    """
    tags = [tag for tag in _tags_of_words(cell) if tag is not None]
    for tag in tags:
        label_name(tag)
    return tags


def _tag_name(tag: Any, names: Sequence[str] | None) -> str:
    name = label_name(tag)
    return class_name(int(name), names) if names is not None and is_integer(name) else name


def _integer_names(class_names: list[str] | None, listed: list[str] | None) -> list[str] | None:
    """The names that integers stand for: a `ClassLabel`'s, else those of `label_list` unless they are numbers."""
    if class_names is not None:
        return class_names
    return None if listed is None or any(map(is_integer, listed)) else listed


def _tags(cells: Cells, names: Sequence[str] | None) -> Iterator[list[str | None]]:
    """All rows of a tag column that can be read; the others are refused by the reader, which knows their row."""
    return readable(cells(), lambda cell: tag_names(cell, names))


def _columns(window: Window, labelled: Mapping[int, int], found: Sequence[tuple[int, int, int, bool]]) -> dict:
    labels = [IGNORED] * len(window.input_ids)
    for piece, tag in labelled.items():
        labels[piece] = tag
    return {
        "labels": labels,
        "words": [word for word, _, _, _ in found],
        "pieces": [piece for _, piece, _, _ in found],
        "tags": [tag for _, _, tag, _ in found],
        "items": sum(tag != IGNORED for tag in labels),
    }
