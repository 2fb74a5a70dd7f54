"""The published encoder that a model with adapters stands on: named in its config, not copied."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import stock_name
from hf_mtl.modeling.loading import load_encoder
from hf_mtl.sources import PACKAGE, encoder_source

SAMPLE = 512
SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/")


@dataclass(frozen=True)
class Base:
    """An encoder that others have published.

    Args:
        encoder: Hub id, absolute folder, or `package://package/folder`.
        revision: the commit on the Hub; None elsewhere.
        fingerprint: of its weights.
    """

    encoder: str
    revision: str | None
    fingerprint: str

    @classmethod
    def of(cls, encoder: str, revision: str | None, model: nn.Module) -> Self:
        """What is noted of an encoder.

        Args:
            encoder: as it was given; a folder is noted as an absolute one.
            revision: of a Hub repository.
            model: its weights.
        """
        return cls(os.path.abspath(encoder) if os.path.isdir(encoder) else encoder, revision, fingerprint(model))

    @property
    def peft_name(self) -> str | None:
        """What PEFT can load the base by."""
        return None if self.encoder.startswith(PACKAGE) else self.encoder

    def load(self, config: Any, **access: Any) -> PreTrainedModel:
        """The encoder, if it is still the same.

        Args:
            config: the encoder's.
            access: `token`, `cache_dir`, `local_files_only` and the like, as for `from_pretrained`.

        Raises:
            UserError: if it cannot be loaded or has other weights.
        """
        try:
            encoder = load_encoder(self.encoder, config, self.revision, **access)
        except UserError as error:
            raise UserError(
                f"{error}. The adapters need the encoder they were trained on; where it lies elsewhere now, name that "
                "place as lora.base.encoder in config.json"
            ) from error
        found = fingerprint(encoder)
        if found != self.fingerprint:
            raise UserError(
                f"encoder {self.encoder}: its weights ({found}) are not those that the adapters were trained on "
                f"({self.fingerprint}); name the right encoder as lora.base.encoder in config.json"
            )
        return encoder


def published_base(
    encoder: str, revision: str | None, loaded: PreTrainedModel, settings: Mapping[str, Any]
) -> Base | None:
    """The base of a new model with adapters; None where the encoder is trained too, so that it is saved with them.

    Args:
        encoder: Hub id, folder or `package://…`.
        revision: of a Hub repository.
        loaded: its weights.
        settings: a run file's `lora`.
    """
    if settings["train_encoder"]:
        return None
    revision = commit_of(encoder, revision)
    # What is saved stands on the encoder as it was published, not on its weights in 4 bits.
    published = load_encoder(encoder, loaded.config, revision) if settings["load_in_4bit"] else loaded
    return Base.of(encoder, revision, published)


def commit_of(encoder: str, revision: str | None = None) -> str | None:
    """The commit that an encoder on the Hub is read from; None for one that lies elsewhere.

    Args:
        encoder: Hub id, folder or `package://…`.
        revision: a branch, tag or commit.
    """
    source = encoder_source(encoder)
    if os.path.isdir(source):
        return None
    # huggingface_hub keeps the files of each commit in a folder of that name.
    file = cached_file(source, "config.json", revision=revision or "main")
    match = SNAPSHOT.search(Path(file).as_posix())
    return match.group(1) if match else None


def fingerprint(model: nn.Module, *, adapters: bool = False) -> str:
    """Tells apart models of one architecture whose weights differ, in little time, by a sample of each weight.

    Args:
        model: an encoder, or a whole model.
        adapters: whether adapters are read too.
    """
    digest = hashlib.sha256()
    for path, weight in sorted(model.named_parameters()):
        name = path if adapters else stock_name(path)
        if name is not None:
            flat = weight.detach().flatten()
            step = max(1, len(flat) // SAMPLE)
            digest.update(f"{name} {list(weight.shape)}".encode())
            digest.update(flat[::step].cpu().to(torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]


def base_of(entries: Mapping[str, Any] | None) -> Base | None:
    """The base in a saved config's `lora`.

    Raises:
        UserError: if its entries are not those of a base.
    """
    if entries is None:
        return None
    if not isinstance(entries, Mapping) or set(entries) != {"encoder", "revision", "fingerprint"}:
        raise UserError(f"config.json: lora.base is {entries!r}; it names encoder, revision and fingerprint")
    if not isinstance(entries["encoder"], str):
        raise UserError(f"config.json: lora.base.encoder is {entries['encoder']!r}; name a Hub id or a folder")
    return Base(**entries)
