"""Adapters on disk: a folder each, as PEFT writes and reads them."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import cached_file

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import adapted_layers, add_adapter, find_targets
from hf_mtl.modeling.loading import some

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's layers."""
READ = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights",
}  # fmt: skip
"""Fields of PEFT's config that say what a plain adapter of linear layers is."""
TOLD = {"peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"}
"""Fields that say where it comes from."""
BEGUN = (True, False, "gaussian", "orthogonal")
"""Ways to initialise an adapter that left the base as it was."""


def write_adapter(
    folder: Path, encoder: PreTrainedModel, names: Sequence[str], weights: Mapping[str, Tensor], base: str | None
) -> None:
    """Writes the adapters of a lane, whose rows go through all of them in sum, as one.

    Several are one of their ranks together: s·BA + s'·B'A' = s·[B, B's'/s][A; A'].

    Args:
        folder: made here.
        encoder: whose adapters they are.
        names: the adapters.
        weights: the encoder's, by name, whole.
        base: what PEFT is told of the base model: a Hub id or a folder.
    """
    tensors, ranks, scales = {}, {}, {}
    for layer, module in adapted_layers(encoder).items():
        own = [name for name in names if name in module.lora_A]
        if not own:
            continue
        scales[layer] = module.scaling[own[0]]
        tops = [weights[f"{layer}.lora_A.{name}.weight"] for name in own]
        outs = [weights[f"{layer}.lora_B.{name}.weight"] for name in own]
        outs = [part * (module.scaling[name] / scales[layer]) for name, part in zip(own, outs, strict=True)]
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = torch.cat(tops).cpu().contiguous()
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = torch.cat(outs, dim=1).cpu().contiguous()
        if own[0] in module.lora_variant:
            magnitude = weights[f"{layer}.lora_magnitude_vector.{own[0]}.weight"]
            tensors[f"{PREFIX}{layer}.lora_magnitude_vector"] = magnitude.cpu().contiguous()
        ranks[layer] = sum(len(part) for part in tops)
    # An adapter of a group has no layers where none of its layers is adapted.
    last = [name for name in names if name in encoder.peft_config][-1]
    config = replace(encoder.peft_config[last], base_model_name_or_path=base, inference_mode=True)
    # How it began says nothing of it any more.
    config = replace(config, target_modules=list(ranks), init_lora_weights=True)
    folder.mkdir(parents=True, exist_ok=True)
    (config if len(names) == 1 else _joined(config, ranks, scales)).save_pretrained(str(folder))
    entries = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    # PEFT keeps a set, whose order changes from process to process.
    entries["target_modules"] = sorted(ranks)
    (folder / CONFIG_FILE).write_text(json.dumps(entries, indent=2, sort_keys=True), encoding="utf-8")
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _joined(config: LoraConfig, ranks: Mapping[str, int], scales: Mapping[str, float]) -> LoraConfig:
    """The config of one adapter of given ranks and scales by layer: lora_alpha / r is the scale."""
    alphas = {layer: scales[layer] * rank for layer, rank in ranks.items()}
    rank, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    return replace(
        config,
        r=rank,
        lora_alpha=alpha,
        use_rslora=False,
        rank_pattern={layer: found for layer, found in ranks.items() if found != rank},
        alpha_pattern={layer: found for layer, found in alphas.items() if found != alpha},
    )


def read_adapter(encoder: PreTrainedModel, name: str, source: str, **where: Any) -> None:
    """Puts a saved adapter into an encoder; one that PEFT wrote elsewhere may be for a task model on such an encoder.

    Args:
        encoder: stock, or with adapters already.
        name: what the adapter is called here.
        source: a folder, or the id of a repository.
        where: `revision`, `subfolder` and the like, as for `from_pretrained`.

    Raises:
        UserError: if it cannot be read, is no plain LoRA adapter, or does not fit the encoder.
    """
    told = f"adapter {'/'.join(filter(None, (source, where.get('subfolder'))))}"
    config, tensors = _files(source, told, where)
    adapted = {key.removeprefix(PREFIX).rpartition(".lora_")[0] or key for key in tensors}
    tensors = {_layer_name(key, encoder): tensor for key, tensor in tensors.items()}
    stock = {path.replace(".base_layer", "") for path, _ in encoder.named_modules()}
    layers = {key.rpartition(".lora_")[0] or key for key in tensors}
    if unknown := sorted(layers - stock):
        pooler = " (the pooler is the heads' here)" if any("pooler" in layer for layer in unknown) else ""
        raise UserError(
            f"{told}: it adapts {some(unknown)}, which this {encoder.config.model_type} encoder does not have"
            f"{pooler}; it was made for another model"
        )
    prefix = f"{encoder.base_model_prefix}."
    meant = set(find_targets(encoder, config, prefix if any(key.startswith(prefix) for key in adapted) else ""))
    # PEFT does not see which layer a module is in where the list of layers stands at the top: then it names none.
    for what, others in (("has no weights for", meant - layers), ("has besides weights for", layers - meant)):
        if meant and others:
            raise UserError(f"{told}: it {what} {some(sorted(others))}, against its config; the file is not as written")
    add_adapter(encoder, name, _by_layer(config, {_layer_name(PREFIX + key, encoder): key for key in adapted}))
    _fill(encoder, name, tensors, told)


def _by_layer(config: LoraConfig, names: Mapping[str, str]) -> LoraConfig:
    """The config of an adapter with its layers, ranks and scales by the layers' full names.

    Args:
        config: as it was saved.
        names: the name in the encoder → that in the model the adapter was made for.
    """

    def found(patterns: Mapping[str, Any] | None) -> dict[str, Any]:
        keys = {layer: get_pattern_key(list(patterns or ()), name) for layer, name in names.items()}
        return {layer: (patterns or {})[key] for layer, key in keys.items() if key in (patterns or {})}

    return replace(
        config,
        target_modules=list(names),
        exclude_modules=None,
        layers_to_transform=None,
        layers_pattern=None,
        rank_pattern=found(config.rank_pattern),
        alpha_pattern=found(config.alpha_pattern),
    )


def _fill(encoder: PreTrainedModel, name: str, tensors: Mapping[str, Tensor], told: str) -> None:
    wanted = {}
    for layer, module in adapted_layers(encoder).items():
        if name in module.lora_A:
            wanted[f"{layer}.lora_A.weight"] = module.lora_A[name].weight
            wanted[f"{layer}.lora_B.weight"] = module.lora_B[name].weight
            if name in module.lora_variant:
                wanted[f"{layer}.lora_magnitude_vector"] = module.lora_magnitude_vector[name].weight
    if wanted.keys() != tensors.keys():
        missing, more = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
        found = [f"{kind} {some(names)}" for kind, names in (("lacks", missing), ("has besides", more)) if names]
        raise UserError(f"{told}: its weights do not fit its config: it {' and '.join(found)}")
    for key, weight in wanted.items():
        if weight.shape != tensors[key].shape:
            raise UserError(
                f"{told}: {key} is {list(tensors[key].shape)}, and this encoder takes {list(weight.shape)}; it was "
                "made for an encoder of another size, or its config says another rank"
            )
    with torch.no_grad():
        for key, weight in wanted.items():
            weight.copy_(tensors[key])


def _files(source: str, told: str, where: Mapping[str, Any]) -> tuple[LoraConfig, dict[str, Tensor]]:
    try:
        entries = json.loads(Path(str(cached_file(source, CONFIG_FILE, **where))).read_text(encoding="utf-8"))
        config = _config(entries, told)
        tensors = load_file(str(cached_file(source, WEIGHTS_FILE, **where)))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{told}: cannot be read as a PEFT adapter ({' '.join(str(error).split())})") from error
    return config, tensors


def _config(entries: Any, told: str) -> LoraConfig:
    """The part of a saved config that is read, if the rest says nothing."""
    kind = entries.get("peft_type") if isinstance(entries, Mapping) else type(entries).__name__
    if kind != "LORA":
        raise UserError(f"{told}: it is of type {kind}; hf_mtl reads LoRA adapters")
    plain = LoraConfig().to_dict() | {"inference_mode": entries.get("inference_mode")}
    others = [key for key, value in entries.items() if key not in READ | TOLD and value and value != plain.get(key)]
    if entries.get("init_lora_weights", True) not in BEGUN:
        others.append("init_lora_weights")
    if others:
        raise UserError(
            f"{told}: its config sets {', '.join(others)}, which makes more of it than low-rank products of linear "
            "layers; merge it into its base with PEFT and fine-tune that"
        )
    _refuse_broken(entries, told)
    # How it began no longer matters, and some ways of beginning do not take every rank.
    return LoraConfig(**{key: entries[key] for key in READ & set(entries)} | {"init_lora_weights": True})


def _refuse_broken(entries: Mapping[str, Any], told: str) -> None:
    """Looks at the kinds of values, which PEFT does not."""

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0

    targets = entries.get("target_modules")
    names = [targets] if isinstance(targets, str) else targets
    patterns = {key: entries.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
    right = {
        "r": isinstance(entries.get("r", 8), int) and number(entries.get("r", 8)),
        "lora_alpha": number(entries.get("lora_alpha", 8)),
        "target_modules": isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names),
    } | {
        key: isinstance(pattern, Mapping) and all(map(number, pattern.values())) and all(map(_expression, pattern))
        for key, pattern in patterns.items()
    }
    right["target_modules"] = right["target_modules"] and (not isinstance(targets, str) or _expression(targets))
    if wrong := [f"{key} {entries.get(key)!r}" for key, fine in right.items() if not fine]:
        raise UserError(f"{told}: its config is broken: {', '.join(wrong)}")


def _expression(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _layer_name(key: str, encoder: PreTrainedModel) -> str:
    """The name in the encoder of a weight in PEFT's file, also where the adapter was made for a task model."""
    return key.removeprefix(PREFIX).removeprefix(f"{encoder.base_model_prefix}.")
