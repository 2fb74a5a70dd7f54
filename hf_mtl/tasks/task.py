"""What every task type is made of. A type is one file beside this one and one line in `tasks/types.py`."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_mtl.config_keys import TaskConfig
from hf_mtl.tasks.labels import LabelError, label_name, shown
from hf_mtl.tasks.spec import TaskSpec

if TYPE_CHECKING:  # evaluate imports half of transformers, and only evaluation needs it: task types import it late
    import evaluate


class Window(NamedTuple):
    """One sequence of a row: a text, or for tagging beyond `max_length` one of its overlapping windows.

    `offsets[p]` is the (start, end) of piece p in the text, in characters; `special[p]` is 1 for pieces that stand for
    no text (and for those of the second text of a pair).
    """

    input_ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    special: Sequence[int]


class Answer(NamedTuple):
    """A row's outcome in evaluation.

    `score` is the model's confidence in its prediction, from 0 to 1; `scores` are those of all labels, where the
    prediction depends on a threshold. Where words are tagged, `words` are the places of those with a tag.
    """

    prediction: Any
    reference: Any
    score: float
    scores: Sequence[float] | None = None
    words: Sequence[int] | None = None


Cells = Callable[[], Iterator[Any]]
"""Gives a label column's cells, from the first row on at each call; null is None."""


class Task(ABC):
    """A task: its labels, its head, its loss and its answers.

    Args:
        spec: what the model keeps of the task.
        class_weight: a factor for each label's items in the loss, in the order of `label_list`.
        label_smoothing_factor: as in `torch.nn.functional.cross_entropy(label_smoothing=...)`.
    """

    auto_class: ClassVar[Any]
    """The `AutoModelFor…` whose head this task trains."""
    pipeline_class: ClassVar[Any]
    """The stock pipeline whose output this task gives."""
    pipeline_options: ClassVar[Sequence[str]]
    """The arguments of that pipeline's call that `MultiTaskPipeline` passes on; how a text is encoded is not theirs."""
    family: ClassVar[Literal["sentence", "token"]]
    """Whether whole texts get labels, or their words: tasks of one family share more of an encoder than of two."""
    reads_windows: ClassVar[bool]
    """Whether all windows of a long text are read, or the first one alone."""
    metric_names: ClassVar[Mapping[str | None, Sequence[str]]]
    """Metrics by problem type, the first of them the default choice."""

    def __init__(
        self, spec: TaskSpec, *, class_weight: Sequence[float] | None = None, label_smoothing_factor: float = 0.0
    ) -> None:
        self.spec = spec
        self.class_weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.label_smoothing_factor = label_smoothing_factor

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def num_labels(self) -> int:
        return 1 if self.spec.label_list is None else len(self.spec.label_list)

    @property
    def metrics(self) -> Sequence[str]:
        """The names of the task's metrics, the default choice first."""
        return self.metric_names[self.spec.problem_type or self.spec.tag_scheme]

    def head_config(self) -> dict[str, Any]:
        """The entries that the stock head's config has beyond the encoder's."""
        labels = self.spec.label_list or ["LABEL_0"]
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            "problem_type": self.spec.problem_type,
        }

    @classmethod
    @abstractmethod
    def stock_spec(cls, name: str, config: PreTrainedConfig) -> TaskSpec:
        """What the config of a stock model of this type says of its task; the name is given.

        Raises:
            ValueError: if it is a task that this type does not have.
        """

    @classmethod
    def cell_key(cls, config: TaskConfig, cell: Any) -> Any:
        """What of a label cell tells it from one that says something else, as JSON has it.

        Raises:
            LabelError: if the task cannot read the cell.
        """
        return cell

    @classmethod
    @abstractmethod
    def from_rows(cls, name: str, config: TaskConfig, cells: Cells, class_names: list[str] | None, pair: bool) -> Self:
        """The task as the run file and the rows of train tell it.

        Args:
            name: the task's name.
            config: its entry in the run file.
            cells: the label column of train.
            class_names: the names of the data set's own `ClassLabel`, if the column is one.
            pair: whether the rows are pairs of texts.

        Raises:
            LabelError: if the labels cannot be read or are not what the run file says.
        """

    @abstractmethod
    def reader(
        self, config: TaskConfig, cells: Cells, class_names: list[str] | None, notes: Counter[str]
    ) -> Callable[[Any], Any]:
        """A function cell → label for one split, which raises `LabelError`; its values are what `encode` takes.

        What it had to mend is counted in `notes`, a sentence for the report → times.
        """

    @abstractmethod
    def columns(self) -> dict[str, Any]:
        """The `datasets` features of the columns that `encode` gives, `items` left out."""

    @abstractmethod
    def label_counts(self, label: Any) -> Mapping[str, int]:
        """What a row's label counts in the report: label → times (for tagging: entity or tag → times)."""

    @abstractmethod
    def encode(self, label: Any, windows: Sequence[Window], words: Sequence[tuple[int, int]] | None) -> list[dict]:
        """The columns this task adds to each sequence of a row, without the task's prefix.

        Args:
            label: the row's label as `reader` gave it, None if the row says nothing about this task.
            windows: the row's sequences.
            words: (start, end) of each word in the text, for rows with words.

        Returns:
            A dict a window. `items` (how many items the sequence has) is always among its keys.
        """

    def notes(self, encoded: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
        """What the report should say of a row's columns from `encode`: a sentence → times."""
        return {}

    @abstractmethod
    def collate(self, sequences: Sequence[Mapping[str, Any]], length: int) -> dict[str, Tensor]:
        """Label tensors of the sequences (only those with an item of this task), padded to `length` pieces."""

    @abstractmethod
    def items(self, labels: Mapping[str, Tensor]) -> Tensor:
        """The number of items in collated labels (rows, or labelled tokens)."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sum of the items' losses (a scalar that keeps its graph with zero rows too), and the number of items."""

    @abstractmethod
    def read(self, logits: Tensor, sequence: Mapping[str, Any]) -> Any:
        """What the model says of one sequence: its part of the row's answer. `logits` are the sequence's, unpadded."""

    @abstractmethod
    def join(self, parts: Sequence[tuple[Mapping[str, Any], Any]]) -> Answer:
        """A row's answer from its (sequence, part) pairs, in the order of the windows."""

    @abstractmethod
    def shown_label(self, label: Any) -> Any:
        """A prediction or reference of `join` in the words of the label list."""

    @abstractmethod
    def metric(self) -> "evaluate.Metric":
        """The metric over all rows' predictions and references as `join` gives them."""

    def logits(self, head: nn.Module, states: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The stock head's logits for encoder states `[rows, length, hidden]` (zero rows too)."""
        return head(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=states).logits


def balanced_weights(
    choice: str | Mapping[Any, float] | None, label_list: Sequence[str], counts: Mapping[str, int]
) -> Tensor:
    """The factor of each label: as given (1 where not), or n / (labels · count) as scikit-learn's "balanced".

    Raises:
        LabelError: if `choice` names a label that the task does not have.
    """
    if isinstance(choice, Mapping):
        given = {label_name(label): weight for label, weight in choice.items()}
        unknown = [label for label in given if label not in label_list]
        if unknown:
            raise LabelError(f"class_weight names {shown(unknown[0])}, which is not a label of the task")
        return torch.tensor([given.get(label, 1.0) for label in label_list])
    total = sum(counts.get(label, 0) for label in label_list)
    # A label that train does not hold has no item to weigh.
    return torch.tensor([total / (len(label_list) * max(counts.get(label, 0), 1)) for label in label_list])
