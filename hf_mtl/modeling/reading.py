"""What `from_pretrained` of a saved model takes, and what it may find."""

from collections.abc import Mapping
from typing import Any

import torch

from hf_mtl.errors import UserError

WHERE = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")
"""Keywords of `from_pretrained` that say where the files are."""
LOADING_INFO = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
"""What transformers tells with `output_loading_info`."""


def wanted_dtype(kwargs: Mapping[str, Any]) -> torch.dtype | None:
    """The precision that keywords of `from_pretrained` ask for; None for that of the file."""
    dtype = kwargs.get("dtype") or kwargs.get("torch_dtype")
    if not isinstance(dtype, str) or dtype == "auto":
        return None if dtype == "auto" else dtype
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"dtype {dtype!r} is none of torch's; use float32, bfloat16 or float16")
    return getattr(torch, dtype)


def refuse_keywords(source: str, kwargs: Mapping[str, Any]) -> None:
    """Refuses keywords of `from_pretrained` that a model with adapters would not follow.

    Raises:
        UserError: for those that say something.
    """
    followed = {*WHERE, "dtype", "torch_dtype", "attn_implementation", "trust_remote_code", "use_safetensors", "config"}
    others = sorted(key for key, value in kwargs.items() if key not in followed and key[0] != "_" and value is not None)
    # transformers' auto classes and pipelines hand these on, whatever they hold.
    others = [key for key in others if key not in ("adapter_kwargs", "code_revision")]
    if others:
        raise UserError(
            f"model {source}: with adapters from_pretrained does not take {', '.join(others)}; it takes "
            f"{', '.join(WHERE)}, dtype and attn_implementation; move the model with .to(device)"
        )


def refuse_misfit(source: str, info: Mapping[str, Any]) -> None:
    """Refuses a saved model whose weights are not exactly those of its config.

    Args:
        source: its folder or id.
        info: what transformers tells of loading it.

    Raises:
        UserError: if weights are missing, left over or of another shape.
    """
    wrong = {
        "missing": sorted(info.get("missing_keys", ())),
        "not part of the model": sorted(info.get("unexpected_keys", ())),
        "of another shape": sorted(name for name, _, _ in info.get("mismatched_keys", ())),
    }
    found = [f"{kind}: {', '.join(names[:5])} ({len(names)})" for kind, names in wrong.items() if names]
    if found:
        raise UserError(
            f"model {source}: the weights do not fit config.json; {'; '.join(found)}. Take the folder as it was saved"
        )
