"""What a run starts from: a stock encoder, or a saved model that new tasks are put on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from hf_mtl.config import encoder_source
from hf_mtl.config_keys import RunConfig
from hf_mtl.config_lora import LoraSection
from hf_mtl.data.tokenizer import load_tokenizer
from hf_mtl.errors import UserError
from hf_mtl.inference.pipeline import saved_tokenizer
from hf_mtl.modeling.adapters import check_targets
from hf_mtl.modeling.base import fingerprint
from hf_mtl.modeling.loading import four_bit, load_encoder_config
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.surgery import joined, new_part
from hf_mtl.sources import PACKAGE
from hf_mtl.tasks.task import Task


@dataclass(frozen=True)
class Origin:
    """Where a run's model comes from, and goes to.

    Args:
        config: the run, which reads rows as the model does.
        tokenizer: the model's.
        onto: the saved model that the run's tasks are put on; None for a run of its own.
        stamp: tells that model apart from others.
    """

    config: RunConfig
    tokenizer: PreTrainedTokenizerBase
    onto: MultiTaskModel | None = None
    stamp: str | None = None

    def model(self, tasks: Sequence[Task]) -> MultiTaskModel:
        """The model to train; what is new in it comes from torch's global generator."""
        config = self.config
        if self.onto is not None:
            return new_part(self.onto, tasks, (config.lora or LoraSection()).model_dump())
        # A package keeps its name: the saved model names the base of its adapters, and a path would be another's.
        encoder = config.encoder if config.encoder.startswith(PACKAGE) else encoder_source(config)
        lora = None if config.lora is None else config.lora.model_dump()
        return MultiTaskModel.from_encoder(encoder, tasks, config.encoder_config, lora=lora)

    def whole(self, model: MultiTaskModel) -> MultiTaskModel:
        """The model to save."""
        return model if self.onto is None else joined(self.onto, model)


def origin(config: RunConfig, onto: str | None = None) -> Origin:
    """Where the run's model comes from.

    Args:
        config: the run.
        onto: the folder or id of a saved model that the run's tasks are put on.

    Raises:
        UserError: if encoder or model cannot be read, or the run would change the saved model.
    """
    if onto is None:
        if config.lora is not None and config.lora.load_in_4bit:
            four_bit()
        source = encoder_source(config)
        if config.lora is not None:
            # Before rows are read, which can take long.
            check_targets(load_encoder_config(source, config.encoder_config), config.lora.model_dump())
        return Origin(config, load_tokenizer(source, config.max_length))
    found = []
    if config.lora is not None and config.lora.load_in_4bit:
        found.append("lora.load_in_4bit: the model's encoder is read as it is; remove the key")
    if config.lora is not None and config.lora.train_encoder:
        found.append("lora.train_encoder: the model's encoder stays as it is; remove the key")
    if config.training.freeze is not None:
        found.append("training.freeze: no weight of the model's encoder is trained in any case; remove the key")
    if os.path.realpath(config.training.output_dir) == os.path.realpath(onto):
        found.append("training.output_dir: this is the model's own folder; name another, for the model with the task")
    if config.encoder_config:
        found.append("encoder_config: the model's encoder is read as it is; remove the key")
    model = MultiTaskModel.from_pretrained(onto)
    if model.dtype != torch.float32:
        found.append(f"{onto}: its weights are {model.dtype}; tasks are put on models in float32")
    if config.lora is not None:
        check_targets(model.config.encoder_config, config.lora.model_dump())
    found += [
        f"tasks.{name}: the model has a task of this name already; choose another name"
        for name in config.tasks
        if name in model.tasks
    ]
    if found:
        raise UserError("\n".join(found))
    tokenizer = saved_tokenizer(onto)
    config = config.model_copy(update={"max_length": tokenizer.model_max_length})
    return Origin(config, tokenizer, model, fingerprint(model, adapters=True))
