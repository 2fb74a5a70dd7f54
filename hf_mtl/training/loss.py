"""The loss of a step: one function over all its micro-batches and processes.

For task t, with S_t the sum of its items' losses in the step, m_t its items, n_t its sequences with at least one item,
and N the sequences with an item of any task: loss = Σ_t loss_weight_t · (n_t / N) · S_t / m_t. The counts are those of
the whole step on all processes, so accumulation and the number of processes do not change the gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.tasks.task import Task


@dataclass(frozen=True)
class StepCounts:
    """Counts of one step over all its micro-batches and processes.

    Args:
        items: m_t by task, rows or labelled tokens.
        sequences: n_t by task.
        rows: N, the sequences with an item of any task.
        tokens: pieces read, padding not counted.
        stops: the processes that were asked to stop.
    """

    items: dict[str, int]
    sequences: dict[str, int]
    rows: int
    tokens: int
    stops: int = 0

    def share(self, task: str, loss_weight: float) -> float:
        """The factor of a task's S_t in the step's loss; 0 where the step has no item of it."""
        if not self.items[task]:
            return 0.0
        return loss_weight * self.sequences[task] / (self.rows * self.items[task])


def count_step(
    batches: Sequence[Mapping[str, Any]], tasks: Mapping[str, Task], accelerator: Accelerator, stop: bool = False
) -> StepCounts:
    """Counts this process's micro-batches, on the CPU, and gathers the sums over all processes.

    Args:
        batches: this process's micro-batches.
        tasks: the model's.
        accelerator: the run's.
        stop: whether this process was asked to stop; gathered here, so that all stop after the same step.
    """
    table = torch.zeros(len(tasks) + 2, 2, dtype=torch.int64)
    table[-1, 0] = int(stop)
    for batch in batches:
        for place, (name, task) in enumerate(tasks.items()):
            table[place, 0] += task.items(batch["labels"][name])
            table[place, 1] += len(batch["rows"][name])
        fed = torch.cat(list(batch["rows"].values())).unique()
        table[-2, 0] += len(fed)
        table[-2, 1] += int(batch["attention_mask"].sum()) if len(fed) else 0
    if accelerator.num_processes > 1:
        table = accelerator.reduce(table.to(accelerator.device), reduction="sum").cpu()
    values = table.tolist()
    return StepCounts(
        items={name: values[place][0] for place, name in enumerate(tasks)},
        sequences={name: values[place][1] for place, name in enumerate(tasks)},
        rows=values[-2][0],
        tokens=values[-2][1],
        stops=values[-1][0],
    )


def micro_batch_loss(
    loss_sums: Mapping[str, Tensor], counts: StepCounts, loss_weights: Mapping[str, float], processes: int
) -> Tensor:
    """What a micro-batch runs backward on: its part of the step's loss, times the processes that average gradients."""
    terms = [counts.share(task, loss_weights[task]) * loss_sum for task, loss_sum in loss_sums.items()]
    return processes * torch.stack(terms).sum()


def drop_absent_gradients(model: MultiTaskModel, counts: StepCounts) -> None:
    """Takes the gradients from the weights that only tasks without an item in the step read.

    With gradients of zero, momentum and weight decay would still move them.
    """
    for parameter in model.own_parameters(*(task for task, items in counts.items.items() if not items)):
        parameter.grad = None
