"""What a model keeps of a task. Imports nothing heavy: the config of a model is read before torch is needed."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What a model keeps of a task: an entry of `tasks` in its `config.json`.

    `label_list` is None for regression. `tag_scheme` is "BIO" or "none" for tagging (the scheme of the labels the
    model gives, whatever scheme the rows were written in), else None. `threshold` is that of a multi-label task.
    """

    name: str
    task_type: str
    problem_type: str | None = None
    label_list: list[str] | None = None
    text_pair: bool = False
    tag_scheme: str | None = None
    threshold: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
