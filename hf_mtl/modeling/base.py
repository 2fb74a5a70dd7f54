"""The published encoder that a model with adapters stands on: named in its config, not copied."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import stock_name
from hf_mtl.modeling.loading import load_encoder
from hf_mtl.sources import PACKAGE

SAMPLE = 512


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

    @property
    def peft_name(self) -> str | None:
        """What PEFT can load the base by."""
        return None if self.encoder.startswith(PACKAGE) else self.encoder

    def load(self, config: Any) -> PreTrainedModel:
        """The encoder, if it is still the same.

        Args:
            config: the encoder's.

        Raises:
            UserError: if it cannot be loaded or has other weights.
        """
        try:
            encoder = load_encoder(self.encoder, config, self.revision)
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


def fingerprint(encoder: nn.Module) -> str:
    """Tells apart encoders of one architecture that were trained otherwise, in little time; adapters are not read.

    Samples of embeddings, biases and norms: any training moves these, and quantising leaves them as they are.
    """
    linear = {f"{name}.weight" for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    digest = hashlib.sha256()
    for path, weight in sorted(encoder.named_parameters()):
        name = stock_name(path)
        if name is not None and path not in linear:
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
    if set(entries) != {"encoder", "revision", "fingerprint"}:
        raise UserError(f"config.json: lora.base has {', '.join(entries)}; it names encoder, revision and fingerprint")
    return Base(**entries)
