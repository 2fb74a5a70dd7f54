"""Where a run stands: enough to compute every step that is left."""

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from hf_mtl.config_keys import TrainingConfig


@dataclass(frozen=True)
class Position:
    """A place between two optimizer steps.

    Args:
        step: steps done since the run's beginning, those without a row and those left out as not finite too.
        epoch: the epoch, from 0.
        step_in_epoch: steps done of it.
        epoch_steps: how many it has.
        draws: the draws of each unit before the epoch.
        active: the tasks that the epoch's plan draws for.
    """

    step: int
    epoch: int
    step_in_epoch: int
    epoch_steps: int
    draws: dict[str, int]
    active: tuple[str, ...]

    @property
    def ends_epoch(self) -> bool:
        return self.step_in_epoch == self.epoch_steps

    @property
    def epochs(self) -> Fraction:
        """Epochs done, the begun one in part."""
        return self.epoch + Fraction(self.step_in_epoch, self.epoch_steps)

    def after_step(self) -> "Position":
        return replace(self, step=self.step + 1, step_in_epoch=self.step_in_epoch + 1)

    def is_last(self, training: TrainingConfig) -> bool:
        """Whether nothing is left to do: `max_steps`, or else `num_train_epochs`, is reached."""
        if training.max_steps > 0:
            return self.step >= training.max_steps
        return self.epochs >= exact(training.num_train_epochs)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        return cls(**values | {"active": tuple(values["active"])})


def exact(number: float) -> Fraction:
    """The number as it was typed: 2.1 epochs of 10 steps are 21 steps, not 22."""
    return Fraction(str(number))
