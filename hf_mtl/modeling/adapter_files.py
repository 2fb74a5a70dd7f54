"""Adapters on disk: a folder each, as PEFT writes and reads them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import cached_file

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import adapted_layers, add_adapter, find_targets

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's layers."""
KNOWN_DEFAULTS = (
    "fan_in_fan_out", "bias", "modules_to_save", "layer_replication", "lora_bias", "target_parameters",
    "trainable_token_indices", "use_qalora", "alora_invocation_tokens", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config",
)  # fmt: skip
"""Fields of PEFT's config that change what an adapter is: read only where they have their default."""


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
    config = replace(encoder.peft_config[names[-1]], base_model_name_or_path=base, inference_mode=True)
    config = replace(config, target_modules=list(ranks))
    folder.mkdir(parents=True)
    (config if len(names) == 1 else _joined(config, ranks, scales)).save_pretrained(str(folder))
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
    tensors = {_layer_name(key, encoder): tensor for key, tensor in tensors.items()}
    stock = {path.replace(".base_layer", "") for path, _ in encoder.named_modules()}
    layers = {key.rpartition(".lora_")[0] for key in tensors}
    if unknown := sorted(layers - stock):
        pooler = " (the pooler is the heads' here)" if any("pooler" in layer for layer in unknown) else ""
        raise UserError(
            f"{told}: it adapts {_some(unknown)}, which this {encoder.config.model_type} encoder does not have"
            f"{pooler}; it was made for another model"
        )
    if not adapted_layers(encoder):
        config = replace(config, target_modules=find_targets(encoder, config), exclude_modules=None)
    missing = sorted(set(config.target_modules or ()) - layers)
    if missing:
        raise UserError(
            f"{told}: its config names {_some(missing)}, for which it has no weights; the file is not whole"
        )
    add_adapter(encoder, name, config)
    _fill(encoder, name, tensors, told)


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
        found = [f"{kind} {_some(names)}" for kind, names in (("lacks", missing), ("has besides", more)) if names]
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
        kind = entries.get("peft_type")
        if kind != "LORA":
            raise UserError(f"{told}: it is of type {kind}; hf_mtl reads LoRA adapters")
        config = LoraConfig(**{key: value for key, value in entries.items() if key in LoraConfig.__dataclass_fields__})
        tensors = load_file(str(cached_file(source, WEIGHTS_FILE, **where)))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{told}: cannot be read as a PEFT adapter ({' '.join(str(error).split())})") from error
    plain = LoraConfig()
    others = [key for key in KNOWN_DEFAULTS if getattr(config, key, None) != getattr(plain, key, None)]
    if others:
        raise UserError(
            f"{told}: its config sets {', '.join(others)}, which changes more than low-rank products of linear layers; "
            "merge it into its base with PEFT and fine-tune that"
        )
    return config, tensors


def _layer_name(key: str, encoder: PreTrainedModel) -> str:
    """The name in the encoder of a weight in PEFT's file, also where the adapter was made for a task model."""
    return key.removeprefix(PREFIX).removeprefix(f"{encoder.base_model_prefix}.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
