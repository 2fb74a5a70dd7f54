"""What a forward pass of the model gives."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class MultiTaskOutput(ModelOutput):
    """What a forward pass gives, by task.

    `loss_sums` holds the sums of the items' losses (scalars) and `item_counts` their numbers, where labels were given;
    `logits` are those of the stock heads, for the rows of each task.
    """

    loss_sums: dict[str, Tensor] | None = None
    # Not `items`: that is a method of the dict every output is, and Accelerate's mixed precision calls it.
    item_counts: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None
