"""Stock checkpoints in: the encoder, and what a checkpoint holds for a new head."""

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import find_adapter_config_file
from transformers.utils import logging as transformers_logging

from hf_mtl.errors import UserError
from hf_mtl.hub_errors import HubError, hub_reason
from hf_mtl.modeling.configuration import MultiTaskConfig, bare
from hf_mtl.modeling.heads import TESTED, head_class, head_config, stock_class
from hf_mtl.modeling.saved_encoder import inner_config, part_of
from hf_mtl.sources import encoder_source
from hf_mtl.tasks.task import Task

logger = logging.getLogger(__name__)

NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
ADAPTER = "this is an adapter, not a model; merge it into its base model first"
OURS = {
    "architectures", "dtype", "id2label", "is_encoder_decoder", "label2id", "model_type", "num_labels",
    "output_attentions", "output_hidden_states", "problem_type", "return_dict", "transformers_version",
}  # fmt: skip
"""Entries of an encoder's config that the model sets itself."""


def load_encoder_config(
    encoder: str, overrides: Mapping[str, Any] | None = None, revision: str | None = None, heads: str = "new"
) -> PreTrainedConfig:
    """The encoder's own config with the overrides of a run file's `encoder_config`.

    Args:
        encoder: Hub id, folder or `package://…`.
        overrides: entries of the config.
        revision: of a Hub repository.
        heads: a run file's; "keep" takes over a multi-task model, also one with layers of groups.

    Raises:
        UserError: if it cannot be found or read, or an override is unknown or refused by the config.
    """
    source = encoder_source(encoder)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except (OSError, HubError, ValueError, KeyError) as error:
        raise UserError(f"encoder {encoder}: {why_not(source, error)}") from error
    if has_adapter(source, revision=revision or "main"):
        raise UserError(f"encoder {encoder}: {ADAPTER}")
    config = bare(inner_config(encoder, config, heads) if isinstance(config, MultiTaskConfig) else config)
    for key, value in (overrides or {}).items():
        _override(config, key, value)
    return config


def _override(config: PreTrainedConfig, key: str, value: Any) -> None:
    if key in OURS:
        raise UserError(f"encoder_config.{key}: hf_mtl sets this itself; remove it")
    known = {name for name in config.to_dict() if not name.startswith("_")} - OURS
    known |= set(config.attribute_map) | {"attn_implementation"}
    if key not in known:
        near = get_close_matches(key, known, n=3) or sorted(
            name for name in known if set(name.split("_")) & set(key.split("_"))
        )
        hint = f"did you mean {' or '.join(near)}?" if near else f"{config.model_type} has {', '.join(sorted(known))}"
        raise UserError(f"encoder_config.{key}: the {config.model_type} config has no such key; {hint}")
    try:
        setattr(config, "_attn_implementation" if key == "attn_implementation" else key, value)
    except Exception as error:
        raise UserError(f"encoder_config.{key}: {value!r} is refused: {error}") from error


def outlined_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The stock base model without its pooler and without values, on the meta device.

    Raises:
        UserError: if transformers does not make such an encoder, as its config was changed.
    """
    try:
        with torch.device("meta"):
            encoder: PreTrainedModel = AutoModel.from_config(config)
    except (ValueError, ImportError) as error:
        raise UserError(f"encoder ({config.model_type}): cannot be made: {' '.join(str(error).split())}") from error
    drop_pooler(encoder)
    return encoder


def load_encoder(
    encoder: str, config: PreTrainedConfig, revision: str | None = None, *, in_4bit: bool = False, **access: Any
) -> PreTrainedModel:
    """The stock base model without its pooler (that is the heads'), every weight from the checkpoint, in float32.

    A checkpoint stored in half precision is widened: training needs weights that can take small steps.

    Args:
        encoder: Hub id, folder or `package://…`.
        config: its config.
        revision: of a Hub repository.
        in_4bit: whether its linear layers are held in 4 bits, as weights that are not trained can be.
        access: `token`, `cache_dir`, `local_files_only` and the like, as for `from_pretrained`.

    Raises:
        UserError: if there is no safetensors checkpoint, or it lacks weights of the encoder.
    """
    source = encoder_source(encoder)
    if config.model_type not in TESTED:
        logger.warning(
            "encoder %s: hf_mtl has not been checked against the stock models of type %r; compare the answers of "
            "model.task_model(...) with the model's own",
            encoder,
            config.model_type,
        )
    try:
        if has_adapter(source, revision=revision or "main", **access):
            raise UserError(f"encoder {encoder}: {ADAPTER}")
        with quiet():
            model, info = AutoModel.from_pretrained(
                source,
                config=config,
                revision=revision or "main",
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **part_of(source, "encoder", revision, **access),
                **(four_bit() if in_4bit else {}),
                **access,
            )
    except (OSError, HubError, ValueError, ImportError) as error:
        raise UserError(f"encoder {encoder}: {why_not(source, error)}") from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler"))
    shapes = sorted(f"{name} ({list(found)}, not {list(wanted)})" for name, found, wanted in info["mismatched_keys"])
    if missing or shapes:
        what = f"has no weights {some(missing)}" if missing else f"has weights of another shape: {some(shapes)}"
        raise UserError(
            f"encoder {encoder}: the checkpoint {what}; it does not fit the {config.model_type} config "
            "(or encoder_config changes a size): take a complete checkpoint"
        )
    drop_pooler(model)
    own_memory(model)
    if in_4bit:
        # The saved model's encoder is the published one, which is not quantised.
        del model.config.quantization_config
    return model


def four_bit() -> dict[str, Any]:
    """What `from_pretrained` takes to hold linear layers in 4 bits, as QLoRA does (Dettmers et al., NeurIPS 2023).

    Raises:
        UserError: without a GPU or bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise UserError("lora.load_in_4bit: weights in 4 bits need a GPU, and there is none here; remove the key")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("lora.load_in_4bit: bitsandbytes is not installed; pip install 'hf_mtl[bitsandbytes]'")
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantization, "device_map": {"": torch.cuda.current_device()}}


def load_head(
    encoder: str, task: Task, config: PreTrainedConfig, revision: str | None = None, *, keep: bool = False
) -> PreTrainedModel:
    """A task's head as `AutoModelFor….from_pretrained(encoder)` would begin it.

    What the checkpoint holds for the head is loaded, the rest is initialised by the stock class from torch's global
    generator. Where the checkpoint's classifier was made for another number of labels, stock loading stops unless
    `ignore_mismatched_sizes` is set; here it is always set, since the tasks of one run have their own label lists,
    and what is not taken over is logged.

    Args:
        encoder: Hub id, folder or `package://…`.
        task: the task.
        config: the encoder's config.
        revision: of a Hub repository.
        keep: whether the encoder is a multi-task model whose head for this task is taken.
    """
    stock, source = stock_class(task, config), encoder_source(encoder)
    with quiet():
        head, info = head_class(stock).from_pretrained(
            source,
            config=head_config(task, config),
            revision=revision or "main",
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **(part_of(source, f"heads.{task.name}", revision) if keep else {}),
        )
    if info["mismatched_keys"]:
        names = sorted(name for name, _, _ in info["mismatched_keys"])
        logger.warning("task %s: %s of %s are for other labels; initialised anew", task.name, ", ".join(names), encoder)
    head.config.name_or_path = ""
    own_memory(head)
    return head


def has_adapter(source: str, **where: Any) -> bool:
    """Whether there is a PEFT adapter: transformers would put it into the model, and read it if it is a pickle.

    Args:
        source: Hub id or folder.
        where: `revision` and the like, as for `from_pretrained`.
    """
    return find_adapter_config_file(source, **where) is not None


def drop_pooler(model: PreTrainedModel) -> None:
    """Take the pooler off a base model: stock heads that pool own theirs."""
    for name in ("pooler", "pooler_activation"):
        if isinstance(getattr(model, name, None), nn.Module):
            setattr(model, name, None)


def own_memory(model: nn.Module) -> None:
    """Move weights that lie in a mapped checkpoint file, at odd addresses, into memory of their own.

    Some products depend on the address to the last bit; so a model gives the same bits before saving and after loading.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


class _NoLoadReport(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting each load and save, and from asking for other files than there are.

    All else that it logs, and all errors, come through.
    """
    report = logging.getLogger("transformers.modeling_utils")
    silence = _NoLoadReport()
    bars = transformers_logging.is_progress_bar_enabled()
    # Where a repository has no safetensors, transformers would send name and token to a service that makes some.
    before = os.environ.get(NO_CONVERSION)
    os.environ[NO_CONVERSION] = "1"
    report.addFilter(silence)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        report.removeFilter(silence)
        os.environ.pop(NO_CONVERSION)
        if before is not None:
            os.environ[NO_CONVERSION] = before
        if bars:
            transformers_logging.enable_progress_bar()


def some(names: Sequence[str]) -> str:
    """A few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def why_not(source: str, error: Exception) -> str:
    """Why a source could not be loaded, and what to do about it."""
    folder = Path(source)
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs code from its repository, which hf_mtl never runs; choose an encoder that transformers knows"
    if folder.is_dir():
        names = {file.name for file in folder.iterdir()}
        if "config.json" not in names and "adapter_config.json" in names:
            return ADAPTER
        if "config.json" not in names:
            return "the folder has no config.json; give the folder of a stock checkpoint"
        if not any(name.endswith(".safetensors") for name in names):
            pickles = [name for name in sorted(names) if name.endswith((".bin", ".pt", ".ckpt"))]
            held = f" ({', '.join(pickles)} is a pickle, which can run code)" if pickles else ""
            return (
                f"the folder has no safetensors weights{held}; load it with transformers where you trust it and "
                "write it again with save_pretrained"
            )
    elif source.startswith((".", "/", "~")) or source.count("/") > 1:
        return "there is no such folder"
    elif reason := hub_reason(error):
        return f"there is no such folder here, and as a repository of the Hub: {reason}"
    elif "safetensors" in text:
        return (
            "the repository has no safetensors weights, and pickles are never read; choose another repository, or "
            "load it with transformers where you trust it and write it with save_pretrained"
        )
    return f"cannot be loaded: {text}"
