"""What a run starts from: a stock encoder, or a saved model that new tasks are put on."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_mtl.config import encoder_source
from hf_mtl.config_keys import LayersConfig, RunConfig
from hf_mtl.config_lora import LoraSection
from hf_mtl.config_sharing import SharingSection
from hf_mtl.data.tokenizer import load_tokenizer
from hf_mtl.errors import UserError
from hf_mtl.hub.contents import saved_record
from hf_mtl.hub.record import encoder_record
from hf_mtl.hub_errors import HubError
from hf_mtl.inference.pipeline import saved_tokenizer
from hf_mtl.modeling.adapters import check_targets
from hf_mtl.modeling.base import commit_of, fingerprint
from hf_mtl.modeling.body import Body
from hf_mtl.modeling.building import Plan, outlined_parts
from hf_mtl.modeling.groups import (
    Sharing,
    check_private_layers,
    check_trained,
    count_layers,
    settle_sharing,
    trained_tops,
)
from hf_mtl.modeling.loading import four_bit, load_encoder_config, outlined_encoder
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.surgery import check_without_adapters, joined, new_part
from hf_mtl.sources import PACKAGE
from hf_mtl.tasks.task import Task


@dataclass(frozen=True)
class Origin:
    """Where a run's model comes from, and goes to.

    Args:
        config: the run, which reads rows as the model does.
        tokenizer: the model's.
        onto: the saved model that the run's tasks are put on; None for a run of its own.
        private_layers: how many top layers of their own the tasks get on that model, in place of adapters.
        stamp: tells that model, and what is put on it, apart from others.
        commit: that the encoder is read from, if it is on the Hub.
        encoder_record: what `training_info.json` says of the encoder.
    """

    config: RunConfig
    tokenizer: PreTrainedTokenizerBase
    onto: MultiTaskModel | None = None
    private_layers: int = 0
    stamp: str | None = None
    commit: str | None = None
    encoder_record: Mapping[str, Any] = field(default_factory=dict)

    def model(self, tasks: Sequence[Task]) -> MultiTaskModel:
        """The model to train; what is new in it comes from torch's global generator."""
        config = self.config
        if self.onto is not None:
            return new_part(self.onto, tasks, (config.lora or LoraSection()).model_dump(), self.private_layers)
        return MultiTaskModel.from_encoder(*self._made_of(tasks))

    def outline(self, tasks: Sequence[Task]) -> tuple[Body, dict[str, PreTrainedModel]]:
        """Body and heads of a run's own `model` without values, on the meta device.

        Raises:
            UserError: for all that `model` refuses, except weights that cannot be read.
        """
        return outlined_parts(Plan.of(*self._made_of(tasks)))

    def why_all_shared(self, tasks: Sequence[Task]) -> str | None:
        """Why no layers are private, where the run file asks for as many as can be found, or freezes these."""
        config, sharing, freeze = self.config, self.config.sharing, self.config.training.freeze
        if self.onto is not None or isinstance(sharing.private_layers, int):
            return None
        asked = sharing.private_layers == "auto" or sharing.groups != "family"
        if self._trained_tops(tasks) == 0:
            what = f"layers {freeze.layers}" if isinstance(freeze, LayersConfig) else freeze
            why = f"sharing: training.freeze {what} leaves nothing to make private, so that all layers are shared"
            return why if config.heads != "keep" and (asked or isinstance(freeze, LayersConfig)) else None
        return self._settled(tasks).why if asked else None

    def _settled(self, tasks: Sequence[Task]) -> Sharing:
        """What the run file's `sharing` comes to, whatever is frozen."""
        return settle_sharing(self.config.sharing.model_dump(), tasks, self._encoder_config(), self._lora())

    def _encoder_config(self) -> PreTrainedConfig:
        config = self.config
        return load_encoder_config(encoder_source(config), config.encoder_config, self.commit, config.heads)

    def _trained_tops(self, tasks: Sequence[Task]) -> int | None:
        """How many layers can be private beside frozen ones; None where as many as `sharing` says, or comes to."""
        freeze = self.config.training.freeze
        if freeze in (None, "embeddings") or isinstance(self.config.sharing.private_layers, int):
            return None
        if not isinstance(freeze, LayersConfig):
            return 0
        # Adapters are trained in frozen layers too.
        groups = () if self.config.lora is not None else self._settled(tasks).groups
        if not groups:
            return None
        number = groups[0].private_layers
        left = trained_tops(number, count_layers(self._encoder_config()), freeze.first, freeze.last)
        return left if left < number else None

    def _made_of(self, tasks: Sequence[Task]) -> tuple[Any, ...]:
        """The arguments of `MultiTaskModel.from_encoder`."""
        config = self.config
        # A package keeps its name: the saved model names the base of its adapters, and a path would be another's.
        encoder = config.encoder if config.encoder.startswith(PACKAGE) else encoder_source(config)
        return encoder, tasks, config.encoder_config, self.commit, self._lora(), self._sharing(tasks), config.heads

    def _lora(self) -> dict[str, Any] | None:
        return None if self.config.lora is None else self.config.lora.model_dump()

    def _sharing(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """The run file's; where layers are not trained fewer are to be found, and those of a saved model to be kept."""
        given, left = self.config.sharing.model_dump(), self._trained_tops(tasks)
        if left is None or (left and self.config.heads == "keep"):
            return given
        return SharingSection().model_dump() if self.config.heads == "keep" else given | {"private_layers": left}

    def whole(self, model: MultiTaskModel) -> MultiTaskModel:
        """The model to save."""
        return model if self.onto is None else joined(self.onto, model)


def origin(config: RunConfig, onto: str | None = None, private_layers: int = 0, commit: str | None = None) -> Origin:
    """Where the run's model comes from.

    Args:
        config: the run.
        onto: the folder or id of a saved model that the run's tasks are put on.
        private_layers: how many top layers of their own they get there, in place of adapters.
        commit: of the encoder's repository, where a run that was begun goes on: it may have changed since.

    Raises:
        UserError: if encoder or model cannot be read, or the run would change the saved model.
    """
    if onto is None:
        if config.lora is not None and config.lora.load_in_4bit:
            four_bit()
        source = encoder_source(config)
        # All of it is read at one commit, whatever is pushed there meanwhile.
        commit = commit or known_commit(source)
        check_encoder(config, load_encoder_config(source, config.encoder_config, commit, config.heads))
        tokenizer = load_tokenizer(source, config.max_length, commit)
        return Origin(config, tokenizer, commit=commit, encoder_record=encoder_record(config, commit))
    model = MultiTaskModel.from_pretrained(onto)
    if found := list(_misfits(config, onto, model, private_layers)):
        raise UserError("\n".join(found))
    tokenizer = saved_tokenizer(onto)
    config = config.model_copy(update={"max_length": tokenizer.model_max_length})
    what = f" ({private_layers} private layers)" if private_layers else ""
    stamp = fingerprint(model, adapters=True) + what
    return Origin(config, tokenizer, model, private_layers, stamp, encoder_record=saved_record(onto).get("encoder", {}))


def known_commit(source: str) -> str | None:
    """The commit of an encoder on the Hub; None elsewhere, or where it cannot be had, as loading will tell."""
    try:
        return commit_of(source)
    except (OSError, HubError):
        return None


def check_encoder(config: RunConfig, encoder: PreTrainedConfig) -> None:
    """Looks whether there can be such an encoder with a run's adapters and private layers: before rows are read.

    Raises:
        UserError: if it cannot.
    """
    outlined_encoder(encoder)
    if config.lora is not None:
        check_targets(encoder, config.lora.model_dump())
    if isinstance(config.sharing.private_layers, int) and config.sharing.private_layers:
        check_private_layers(config.sharing.private_layers, encoder, "sharing.private_layers")
        freeze = config.training.freeze
        # Adapters are trained in frozen layers too.
        if isinstance(freeze, LayersConfig) and config.lora is None:
            check_trained(config.sharing.private_layers, encoder, freeze.first, freeze.last)


def _misfits(config: RunConfig, onto: str, model: MultiTaskModel, private_layers: int) -> Iterator[str]:
    """What a run cannot say that puts tasks on a saved model."""
    if config.lora is not None and private_layers:
        yield "lora: with --private-layers the tasks' own layers are trained in place of adapters; remove one of them"
    if config.sharing.private_layers:
        yield "sharing.private_layers: the model's tasks share what they share; --private-layers is for the new ones"
    if config.lora is not None and config.lora.load_in_4bit:
        yield "lora.load_in_4bit: the model's encoder is read as it is; remove the key"
    if config.lora is not None and config.lora.train_encoder:
        yield "lora.train_encoder: the model's encoder stays as it is; remove the key"
    if config.heads == "keep":
        yield "heads: the model's own heads stay as they are in any case; remove the key"
    if config.training.push_to_hub and config.training.hub_strategy != "end":
        yield "training.hub_strategy: the model is whole only at the end of the run; set it to end"
    if config.training.freeze is not None:
        yield "training.freeze: no weight of the model's encoder is trained in any case; remove the key"
    if os.path.realpath(config.training.output_dir) == os.path.realpath(onto):
        yield "training.output_dir: this is the model's own folder; name another, for the model with the task"
    if config.encoder_config:
        yield "encoder_config: the model's encoder is read as it is; remove the key"
    if model.dtype != torch.float32:
        yield f"{onto}: its weights are {model.dtype}; tasks are put on models in float32"
    encoder = model.config.encoder_config
    try:
        if config.lora is not None:
            check_targets(encoder, config.lora.model_dump())
        if private_layers:
            check_private_layers(private_layers, encoder, "--private-layers")
            check_without_adapters(model)
    except UserError as error:
        yield str(error)
    for name in config.tasks:
        if name in model.tasks:
            yield f"tasks.{name}: the model has a task of this name already; choose another name"
