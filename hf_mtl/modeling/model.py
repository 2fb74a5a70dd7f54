"""MultiTaskModel: one encoder, a stock head for each task."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput, cached_file

from hf_mtl.errors import UserError
from hf_mtl.modeling.configuration import MultiTaskConfig
from hf_mtl.modeling.conversion import stock_task_model, task_model_parts
from hf_mtl.modeling.heads import check_name, new_head, stock_class
from hf_mtl.modeling.loading import (
    ADAPTER,
    drop_pooler,
    has_adapter,
    load_encoder,
    load_encoder_config,
    load_head,
    own_memory,
    quiet,
    why_not,
)
from hf_mtl.tasks.task import Task
from hf_mtl.tasks.types import TASK_TYPES, build_task


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


class MultiTaskModel(PreTrainedModel):
    """One encoder and a stock `AutoModelFor…` head for each task.

    `encoder` is the stock base model without its pooler, `heads` a dict of stock models whose base model is replaced,
    `tasks` the `Task` of each head, in order.
    """

    config_class = MultiTaskConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: MultiTaskConfig) -> None:
        super().__init__(config)
        if config.encoder_config is None:
            raise UserError("not a multi-task model: config.json has no encoder_config; from_encoder makes a new model")
        self.tasks: dict[str, Task] = _tasks(config)
        self.encoder = AutoModel.from_config(config.encoder_config)
        drop_pooler(self.encoder)
        self.heads = nn.ModuleDict({name: new_head(task, config.encoder_config) for name, task in self.tasks.items()})
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self._takes_token_types = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        self.post_init()
        # Stock classes name weights they do without; in a file of ours nothing may be missing.
        self._keys_to_ignore_on_load_missing: set[str] = set()

    @classmethod
    def from_encoder(
        cls,
        encoder: str,
        tasks: Sequence[Task],
        encoder_config: Mapping[str, Any] | None = None,
        revision: str | None = None,
    ) -> Self:
        """A model for new tasks on a pretrained encoder, in float32 and in evaluation mode.

        Each head begins as `AutoModelFor….from_pretrained(encoder)` would begin it; what is initialised comes from
        torch's global generator.

        Args:
            encoder: Hub id, folder, or `package://package/folder`.
            tasks: the tasks, in order.
            encoder_config: overrides of the encoder's own config.
            revision: of a Hub repository.

        Raises:
            UserError: if the encoder cannot be loaded or cannot carry the tasks.
        """
        config = load_encoder_config(encoder, encoder_config, revision)
        for task in tasks:
            check_name(task.name)
            stock_class(task, config)
        base = load_encoder(encoder, config, revision)
        heads = {task.name: load_head(encoder, task, base.config, revision) for task in tasks}
        return cls._of_parts(base, heads, tasks)

    @classmethod
    def _of_parts(cls, encoder: PreTrainedModel, heads: Mapping[str, PreTrainedModel], tasks: Sequence[Task]) -> Self:
        """A model around an encoder and heads that have their weights."""
        config = MultiTaskConfig(encoder_config=encoder.config, tasks=[task.spec.to_dict() for task in tasks])
        config.dtype = encoder.dtype
        config.architectures = [cls.__name__]
        with torch.device("meta"):
            model = cls(config)
        model.encoder = encoder
        for name, head in heads.items():
            model.heads[name] = head
        model.tasks = {task.name: task for task in tasks}
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a saved model, as every `from_pretrained` of transformers; only safetensors are read.

        Raises:
            UserError: if weights are missing, left over or of another shape: nothing is initialised anew in silence.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        source = str(pretrained_model_name_or_path)
        try:
            where = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in kwargs}
            cached_file(source, "config.json", **where)
            if has_adapter(source, **where):
                raise UserError(f"model {source}: {ADAPTER}")
            with quiet():
                model, info = super().from_pretrained(source, *model_args, **kwargs)
        except OSError as error:
            raise UserError(f"model {source}: {why_not(source, error)}") from error
        wrong = {
            "missing": sorted(info["missing_keys"]),
            "not part of the model": sorted(info["unexpected_keys"]),
            "of another shape": sorted(name for name, _, _ in info["mismatched_keys"]),
        }
        found = [f"{kind}: {', '.join(names[:5])} ({len(names)})" for kind, names in wrong.items() if names]
        if found:
            raise UserError(
                f"model {source}: the weights do not fit config.json; {'; '.join(found)}. "
                "Take the folder as it was saved"
            )
        own_memory(model)
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save as every `save_pretrained` of transformers, with the tasks as they stand now."""
        self.config.tasks = [task.spec.to_dict() for task in self.tasks.values()]
        with quiet():
            super().save_pretrained(save_directory, **kwargs)

    def task_model(self, name: str) -> PreTrainedModel:
        """The stock model of a task, as its `AutoModelFor…` would load it: copies of the weights, evaluation mode.

        Raises:
            UserError: if there is no such task.
        """
        if name not in self.tasks:
            raise UserError(f"there is no task {name!r}; the model has {', '.join(self.tasks) or 'none'}")
        return stock_task_model(self.tasks[name], self.encoder, self.heads[name])

    @classmethod
    def from_task_models(cls, /, encoder: PreTrainedModel | None = None, **task_models: PreTrainedModel) -> Self:
        """A model of stock task models: their heads, copied bit for bit, on one encoder.

        A task keeps its answers if its own encoder equals the shared one (as with models that `task_model` gave); a
        warning names the tasks for which that is not so. What only a multi-task model knows (whether a task reads
        pairs, the threshold of several labels) comes along with models made by `task_model`, and has its default
        otherwise.

        Args:
            encoder: the stock base model to share; by default that of the first task model.
            task_models: a stock task model for each task name.

        Raises:
            ValueError: for anything but stock task models of one architecture, size and precision.
        """
        return cls._of_parts(*task_model_parts(encoder, task_models))

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        rows: Mapping[str, Tensor] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """The encoder's states for each task: the one place where the encoder is called.

        Args:
            input_ids: `[rows, length]`.
            attention_mask: `[rows, length]`.
            token_type_ids: `[rows, length]`; left out for encoders that have none.
            rows: the index of each task's rows, `[rows_t]`; without it every task gets all rows.
            tasks: the tasks to give states for; all by default.

        Returns:
            `[rows_t, length, hidden]` for each task.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None and self._takes_token_types:
            inputs["token_type_ids"] = token_type_ids
        states = self.encoder(**inputs).last_hidden_state
        names = self.tasks if tasks is None else tasks
        return {name: states if rows is None else states.index_select(0, rows[name]) for name in names}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        rows: Mapping[str, Tensor] | None = None,
        labels: Mapping[str, Mapping[str, Tensor]] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> MultiTaskOutput:
        """Every task's logits for its rows and, with labels, the sum of its items' losses.

        Args:
            input_ids: `[rows, length]`.
            attention_mask: `[rows, length]`.
            token_type_ids: `[rows, length]`.
            rows: the index of each task's rows, `[rows_t]`, which may be empty; without it every row is each task's.
            labels: each task's label tensors, as its `Task.collate` made them.
            tasks: the tasks to run; all by default.
        """
        states = self.encode(input_ids, attention_mask, token_type_ids, rows, tasks)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits, loss_sums, item_counts = {}, {}, {}
        for name, state in states.items():
            ids, seen = input_ids, mask
            if rows is not None:
                ids, seen = ids.index_select(0, rows[name]), seen.index_select(0, rows[name])
            logits[name] = self.tasks[name].logits(self.heads[name], state, ids, seen)
            if labels is not None:
                loss_sums[name], item_counts[name] = self.tasks[name].loss(logits[name], labels[name])
        if labels is None:
            return MultiTaskOutput(logits=logits)
        return MultiTaskOutput(loss_sums=loss_sums, item_counts=item_counts, logits=logits)


def _tasks(config: MultiTaskConfig) -> dict[str, Task]:
    tasks = {}
    for entry in config.tasks:
        check_name(entry["name"])
        if entry["task_type"] not in TASK_TYPES:
            known = ", ".join(TASK_TYPES)
            raise UserError(f"task {entry['name']}: {entry['task_type']!r} is not a task type; use one of {known}")
        tasks[entry["name"]] = build_task(entry)
    return tasks


AutoModel.register(MultiTaskConfig, MultiTaskModel)
