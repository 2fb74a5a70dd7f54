"""MultiTaskModel: one encoder, a stock head for each task."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import cached_file

from hf_mtl.errors import UserError
from hf_mtl.hub_errors import HubError
from hf_mtl.modeling.adapted_folder import read_adapted, write_adapted
from hf_mtl.modeling.base import Base
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.building import Plan, new_parts
from hf_mtl.modeling.configuration import MultiTaskConfig
from hf_mtl.modeling.conversion import stock_task_model, task_model_parts
from hf_mtl.modeling.groups import Group, check_depths, saved_groups
from hf_mtl.modeling.heads import new_head, saved_tasks
from hf_mtl.modeling.lanes import Lanes
from hf_mtl.modeling.loading import (
    ADAPTER,
    drop_pooler,
    has_adapter,
    own_memory,
    quiet,
    why_not,
)
from hf_mtl.modeling.output import MultiTaskOutput
from hf_mtl.modeling.private_layers import PrivateLayers, new_private
from hf_mtl.modeling.reading import LOADING_INFO, WHERE, refuse_keywords, refuse_misfit, wanted_dtype
from hf_mtl.modeling.scopes import lanes_of
from hf_mtl.modeling.uploading import Uploading
from hf_mtl.modeling.ways import Ways
from hf_mtl.tasks.task import Task


class MultiTaskModel(Uploading):
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
        self.tasks: dict[str, Task] = saved_tasks(config)
        if config.lora is not None:
            raise UserError("the config of a model with adapters does not hold them; read the folder: from_pretrained")
        self.encoder = AutoModel.from_config(config.encoder_config)
        drop_pooler(self.encoder)
        self.heads = nn.ModuleDict({name: new_head(task, config.encoder_config) for name, task in self.tasks.items()})
        self.groups: tuple[Group, ...] = saved_groups(config.groups or (), list(self.tasks))
        check_depths(self.groups, self.encoder)
        self.private = nn.ModuleDict(new_private(self.encoder, self.groups))
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self.lanes: Lanes = lanes_of(None, list(self.tasks), self.groups)
        self.base: Base | None = None
        self._ways: Ways | None = None
        self._takes = set(inspect.signature(self.encoder.forward).parameters)
        self.post_init()
        # Stock classes name weights they do without; in a file of ours nothing may be missing.
        self._keys_to_ignore_on_load_missing: set[str] = set()
        if self.device.type != "meta":
            self._ways = Ways(self.body)

    @classmethod
    def from_encoder(
        cls,
        encoder: str,
        tasks: Sequence[Task],
        encoder_config: Mapping[str, Any] | None = None,
        revision: str | None = None,
        lora: Mapping[str, Any] | None = None,
        sharing: Mapping[str, Any] | None = None,
        heads: str = "new",
    ) -> Self:
        """A model for new tasks on a pretrained encoder, in float32 and in evaluation mode.

        Each head begins as `AutoModelFor….from_pretrained(encoder)` would begin it; what is initialised comes from
        torch's global generator.

        Args:
            encoder: Hub id, folder, or `package://package/folder`.
            tasks: the tasks, in order.
            encoder_config: overrides of the encoder's own config.
            revision: of a Hub repository.
            lora: adapters, as in a run file; the encoder's own weights are then trained only if it says so.
            sharing: which tasks have top layers of their own, as in a run file; by default all layers are everybody's.
            heads: "keep" takes over the heads of tasks of the same name where `encoder` is a multi-task model, and
                the layers of their groups.

        Raises:
            UserError: if the encoder cannot be loaded or cannot carry the tasks, adapters or groups.
        """
        plan = Plan.of(encoder, tasks, encoder_config, revision, lora, sharing, heads)
        return cls.of_parts(*new_parts(plan), tasks)

    @classmethod
    def of_parts(cls, body: Body, heads: Mapping[str, PreTrainedModel], tasks: Sequence[Task]) -> Self:
        """A model of a body and heads that have their weights.

        Args:
            body: nothing is hooked into its encoder.
            heads: by task.
            tasks: in order.
        """
        config = MultiTaskConfig(encoder_config=body.encoder.config, tasks=[task.spec.to_dict() for task in tasks])
        config.dtype = body.encoder.dtype
        config.architectures = [cls.__name__]
        with torch.device("meta"):
            model = cls(config)
        model.encoder = body.encoder
        model.private = nn.ModuleDict(body.private)
        for name, head in heads.items():
            model.heads[name] = head
        model.tasks = {task.name: task for task in tasks}
        model.lanes, model.groups, model.base = body.lanes, body.groups, body.base
        model._ways = Ways(body)
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a saved model, as every `from_pretrained` of transformers; only safetensors are read.

        Raises:
            UserError: if weights are missing, left over or of another shape: nothing is initialised anew in silence.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        source = str(pretrained_model_name_or_path)
        where = {key: kwargs[key] for key in WHERE if key in kwargs}
        try:
            if cached_file(source, "config.json", **where) is None:
                raise UserError(f"model {source}: there is no config.json; check the name and the revision")
            if has_adapter(source, **{key: value for key, value in where.items() if key in ("revision", "token")}):
                raise UserError(f"model {source}: {ADAPTER}")
            given = kwargs.get("config")
            config = given if isinstance(given, MultiTaskConfig) else MultiTaskConfig.from_pretrained(source, **where)
            if config.lora is not None:
                model, info = cls._from_adapted(source, config, where, kwargs), dict.fromkeys(LOADING_INFO, ())
            else:
                kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
                with quiet():
                    model, info = super().from_pretrained(source, *model_args, **kwargs)
                    model._ways = Ways(model.body)
        except (OSError, HubError, SafetensorError) as error:
            raise UserError(f"model {source}: {why_not(source, error)}") from error
        refuse_misfit(source, info)
        own_memory(model)
        return (model, info) if wants_info else model

    @classmethod
    def _from_adapted(cls, source: str, config: Any, where: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Self:
        refuse_keywords(source, kwargs)
        # transformers' auto classes put the choice of attention into the config.
        if attention := kwargs.get("attn_implementation") or config._attn_implementation:
            config.encoder_config._attn_implementation = attention
        tasks = saved_tasks(config)
        groups = saved_groups(config.groups or (), list(tasks))
        with quiet():
            body, heads = read_adapted(source, config, tasks, groups, **where)
        model = cls.of_parts(body, heads, list(tasks.values()))
        model.to(wanted_dtype(kwargs) or config.dtype or model.dtype)
        model.config.dtype = model.dtype
        model.config._name_or_path = source
        return model

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save as every `save_pretrained`; with adapters these, the heads, and the encoder only if it was trained."""
        self.config.tasks = [task.spec.to_dict() for task in self.tasks.values()]
        self.config.groups = [group.to_dict() for group in self.groups] or None
        if not any(self.lanes.adapters.values()):
            with quiet():
                super().save_pretrained(save_directory, **kwargs)
        elif kwargs.get("push_to_hub"):
            raise UserError("push_to_hub: call the model's push_to_hub, or publish the folder with hf-mtl push")
        elif kwargs.get("is_main_process", True):
            weights = kwargs.get("state_dict") or self.state_dict()
            write_adapted(Path(save_directory), self.config, self.body, weights)

    def task_model(self, name: str) -> PreTrainedModel:
        """The stock model of a task, as its `AutoModelFor…` would load it: copies of the weights, evaluation mode.

        Raises:
            UserError: if there is no such task.
        """
        if name not in self.tasks:
            raise UserError(f"there is no task {name!r}; the model has {', '.join(self.tasks) or 'none'}")
        adapters = self.lanes.adapters[self.lanes.tasks[name]]
        return stock_task_model(self.tasks[name], self.body.task_encoder(name), self.heads[name], adapters)

    def own_parameters(self, *names: str) -> Iterator[nn.Parameter]:
        """The weights that only these tasks train: their heads, and adapters and layers that no other task reads."""
        for name in names:
            yield from self.heads[name].parameters()
        yield from self.body.own_parameters(names)

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
        return cls.of_parts(*task_model_parts(encoder, task_models))

    @property
    def body(self) -> Body:
        """What stands below the heads."""
        return Body(
            self.encoder,
            self.lanes,
            self.groups,
            {name: cast(PrivateLayers, own) for name, own in self.private.items()},
            self.base,
        )

    def release(self) -> None:
        """Takes from the encoder what this model has hooked into it, so that another model can have it."""
        if self._ways is not None:
            self._ways.release()
            self._ways = None

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
        if token_type_ids is not None and "token_type_ids" in self._takes:
            inputs["token_type_ids"] = token_type_ids
        names = list(self.tasks) if tasks is None else tasks
        shares = self.lanes.take(rows, len(input_ids), names, input_ids.device)
        index = self.lanes.index()
        if index is not None and not (self._ways and self._ways.copies_inside):
            inputs = {key: None if value is None else value.index_select(0, index) for key, value in inputs.items()}
        # A decoder would keep keys and values for a next token, which there is none of.
        cache = {"use_cache": False} if "use_cache" in self._takes else {}
        with self.lanes.passing():
            states = self.lanes.passed(self.encoder(**inputs, **cache).last_hidden_state)
        return shares.split(states)

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


AutoModel.register(MultiTaskConfig, MultiTaskModel)
