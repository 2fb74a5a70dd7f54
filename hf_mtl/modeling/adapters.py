"""LoRA adapters in an encoder: PEFT's layers, put in by full names."""

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_mtl.config_lora import ALL_LINEAR
from hf_mtl.errors import UserError
from hf_mtl.modeling.layers import Depths
from hf_mtl.modeling.loading import outlined_encoder

SHARED = "shared"
"""The name of the adapter of all tasks."""
OURS = {"scope", "train_encoder", "load_in_4bit"}
"""Entries of a run file's `lora` that PEFT does not know."""
CHOOSING = {"target_modules", "exclude_modules", "layers_to_transform"}
"""Entries that choose layers."""


def new_config(
    encoder: PreTrainedModel, settings: Mapping[str, Any], apart: Callable[[str], bool] | None = None, instead: str = ""
) -> LoraConfig:
    """PEFT's config of a new adapter, its targets by their full names.

    Full names, since the stock base model has a pooler, which is the heads' here: by the end of its name (`dense`) its
    layer would be adapted too when PEFT puts the adapter on the stock model.

    Args:
        encoder: the bare stock encoder.
        settings: a run file's `lora`.
        apart: in which layers rows that meet go through different adapters; by default in none.
        instead: what else a user can do than leave out what cannot be adapted there.

    Raises:
        UserError: for targets that the encoder does not have, or that cannot be adapted by task.
    """
    passed = {key: value for key, value in settings.items() if key not in CHOOSING | OURS}
    targets = sorted(_targets(encoder, settings, apart, instead))
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in settings.get(key) or ():
            if not any(get_pattern_key([pattern], target) == pattern for target in targets):
                raise UserError(f"lora.{key}: {pattern!r} is the end of no adapted layer's name; {_ends(targets)} are")
    return LoraConfig(**passed, target_modules=targets)


def check_targets(config: PreTrainedConfig, settings: Mapping[str, Any]) -> None:
    """Looks for the layers that a run file's `lora` names in an encoder without weights.

    Raises:
        UserError: as for `new_config`, except for what cannot be adapted by task.
    """
    _targets(outlined_encoder(config), settings)


def add_adapter(encoder: PreTrainedModel, name: str, config: LoraConfig) -> None:
    """Puts one adapter into an encoder, initialised by PEFT from torch's global generator.

    Args:
        encoder: stock, or with adapters already.
        name: the adapter's.
        config: its targets by full names.
    """
    training = {id(weight) for weight in encoder.parameters() if weight.requires_grad}
    with warnings.catch_warnings():
        # Of several adapters in one model: that is meant.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        # PEFT shortens the names of the targets where it sees the config.
        inject_adapter_in_model(copy.deepcopy(config), encoder, name)
    own = {id(weight) for weight in adapter_parameters(encoder, name)}
    for weight in encoder.parameters():
        weight.requires_grad_(id(weight) in training | own)


def remove_adapter(encoder: PreTrainedModel, name: str, parts: Iterable[nn.Module] | None = None) -> None:
    """Takes one adapter out; a layer without any is stock again.

    Args:
        encoder: knows its adapters.
        name: the adapter's.
        parts: what holds it; the encoder itself by default.
    """
    for part in (encoder,) if parts is None else parts:
        for path, layer in adapted_layers(part).items():
            take_out(layer, name)
            if not layer.lora_A:
                part.set_submodule(path, layer.get_base_layer())
    encoder.peft_config.pop(name, None)


def take_out(layer: LoraLayer, name: str) -> None:
    """Takes one adapter out of one layer."""
    with warnings.catch_warnings():
        # Of the adapter that PEFT now takes for the active one: lanes say which is.
        warnings.filterwarnings("ignore", "Adapter .* was active")
        layer.delete_adapter(name)


def adapted_layers(encoder: nn.Module) -> dict[str, LoraLayer]:
    """Name in the stock encoder → layer with adapters."""
    return {name: module for name, module in encoder.named_modules() if isinstance(module, LoraLayer)}


def adapter_parameters(encoder: nn.Module, name: str) -> Iterator[nn.Parameter]:
    """The weights of one adapter."""
    wanted = re.compile(rf"\.lora_\w+\.{re.escape(name)}(\.|$)")
    return (weight for path, weight in encoder.named_parameters() if wanted.search(path))


def stock_name(name: str) -> str | None:
    """The name that a weight of an encoder with adapters has in the stock encoder; None for an adapter's weight."""
    return None if ".lora_" in name else name.replace(".base_layer.", ".")


def find_targets(encoder: PreTrainedModel, config: LoraConfig, prefix: str = "") -> list[str]:
    """The linear layers that PEFT would adapt in a bare encoder, by their full names.

    Args:
        encoder: stock, or with adapters already.
        config: PEFT's.
        prefix: what stands before the names where the encoder is part of the model that the config is for.
    """
    linear = _linear(encoder)
    if config.target_modules == ALL_LINEAR:
        config = replace(config, target_modules=[f"{prefix}{name}" for name in linear])
    return [name for name in linear if check_target_module_exists(config, f"{prefix}{name}")]


def _linear(encoder: nn.Module) -> list[str]:
    """The linear layers of a stock encoder, those that have adapters already too."""
    names = (stock_name(f"{name}.weight") for name, module in encoder.named_modules() if isinstance(module, nn.Linear))
    return [name.removesuffix(".weight") for name in names if name is not None]


def _targets(
    encoder: PreTrainedModel, settings: Mapping[str, Any], apart: Callable[[str], bool] | None = None, instead: str = ""
) -> list[str]:
    linear = _linear(encoder)
    wanted, left_out = settings["target_modules"], settings.get("exclude_modules")
    _refuse_unknown("target_modules", wanted, linear)
    _refuse_unknown("exclude_modules", left_out or [], linear)
    found = find_targets(encoder, LoraConfig(target_modules=wanted, exclude_modules=left_out))
    if settings.get("layers_to_transform") is not None:
        found = _in_layers(encoder, found, settings["layers_to_transform"])
    if apart is not None:
        others = {name for name in not_by_row(encoder, linear) if apart(name)}
        if wanted != ALL_LINEAR and others & set(found):
            raise UserError(
                f"lora.target_modules: {_ends(others & set(found))} of {encoder.config.model_type} also read what is "
                "no row of the batch (positions), so they cannot be adapted by task or by group of tasks; leave them "
                f"out{instead}"
            )
        found = [name for name in found if name not in others]
    if not found:
        raise UserError(
            "lora: no layer of the encoder gets an adapter; see target_modules, exclude_modules and "
            f"layers_to_transform (its linear layers: {_ends(linear)})"
        )
    return found


def _in_layers(encoder: PreTrainedModel, names: Sequence[str], wanted: int | Sequence[int]) -> list[str]:
    """The names in some of the encoder's layers, counted from 0 at the bottom."""
    numbers = {wanted} if isinstance(wanted, int) else set(wanted)
    try:
        depths = Depths(encoder)
    except UserError as error:
        raise UserError(f"lora.layers_to_transform: {error}; leave the key out") from None
    if beyond := sorted(number for number in numbers if number > depths.top):
        raise UserError(
            f"lora.layers_to_transform: {beyond[0]} is no layer of the encoder; the last one is {depths.top}"
        )
    return [name for name in names if depths.of(name) in numbers]


def _refuse_unknown(key: str, wanted: str | Sequence[str], linear: Sequence[str]) -> None:
    if wanted == ALL_LINEAR:
        return
    if isinstance(wanted, str):
        missing = [] if any(re.fullmatch(wanted, name) for name in linear) else [wanted]
    else:
        ends = [f".{name}" for name in linear]
        missing = [name for name in wanted if not any(end.endswith(f".{name}") for end in ends)]
    if missing:
        raise UserError(
            f"lora.{key}: the encoder has no linear layer called {', '.join(missing)}; it has {_ends(linear)}"
        )


def _ends(names: Iterable[str]) -> str:
    """Names of layers without what counts them, each once."""
    return ", ".join(sorted({re.sub(r"^.*\.\d+\.", "", name) for name in names}))


def not_by_row(encoder: PreTrainedModel, names: Sequence[str]) -> set[str]:
    """The layers that read anything but the rows of the batch: their rows cannot be told apart by task."""
    rows, seen = 3, dict.fromkeys(names, True)
    modules = dict(encoder.named_modules())

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[name] = seen[name] and len(inputs[0]) == rows

        return modules[name].register_forward_pre_hook(hook)

    hooks = [watch(name) for name in names]
    training = encoder.training
    # DeBERTa calls this, which looks at ids; on the meta device these have no values.
    vars(encoder)["warn_if_padding_and_no_attention_mask"] = lambda *_: None
    try:
        with torch.no_grad():
            # A length that no first dimension has.
            encoder.eval()(input_ids=torch.ones(rows, 7, dtype=torch.long, device=encoder.device))
    finally:
        encoder.train(training)
        del vars(encoder)["warn_if_padding_and_no_attention_mask"]
        for hook in hooks:
            hook.remove()
    return {name for name in names if not seen[name]}
