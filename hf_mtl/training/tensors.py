"""A run's tensors as they are written and put back: model, optimizer and random generators, whole on every process.

Under FSDP2 parameters and optimizer states are `DTensor`s, a piece a process; they are gathered before they are
written and cut again when they are read, so that a checkpoint does not depend on how the model was spread.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights on the CPU, by name. All processes must call it; on the CPU they share the model's memory."""
    return {name: _whole(tensor) for name, tensor in model.state_dict().items()}


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """As `model_tensors`, without the weights that are not trained: these are as the run found them."""
    still = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    return {name: _whole(tensor) for name, tensor in model.state_dict().items() if name not in still}


def load_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `model_tensors` or `changing_tensors` took out.

    Raises:
        RuntimeError: if weights that are trained are missing, or any is not the model's.
    """
    current = model.state_dict()
    found = {name: _like(current.get(name), tensor) for name, tensor in tensors.items()}
    left = set(model.load_state_dict(found, strict=False).missing_keys)
    lost = sorted(left & {name for name, weight in model.named_parameters() if weight.requires_grad})
    more = sorted(found.keys() - current.keys())
    if lost or more:
        raise RuntimeError(f"these weights are not the model's: missing {lost}, besides {more}")


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as tensors called "<parameter>.<entry>", and its groups' settings as JSON.

    A parameter that has never had a gradient has no state, and gets none when the state is put back.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {
        f"{names[parameter]}.{entry}": _whole(torch.as_tensor(value))
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
        if value is not None
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return tensors, groups


def load_optimizer(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Puts back what `optimizer_tensors` took out."""
    entries: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter_name, _, entry = name.rpartition(".")
        entries.setdefault(parameter_name, {})[entry] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    state, settings, number = {}, [], 0
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        settings.append(saved | {"params": list(range(number, number + len(group["params"])))})
        for parameter in group["params"]:
            if found := entries.get(names[parameter]):
                state[number] = {entry: _like(parameter, tensor) for entry, tensor in found.items()}
            number += 1
    optimizer.load_state_dict({"state": state, "param_groups": settings})


@dataclass(frozen=True)
class Generators:
    """The states of a process's random generators: torch's, the device's where there is one, numpy's and Python's."""

    torch_state: Tensor
    cuda_state: Tensor | None
    numpy_state: Any
    python_state: Any

    @classmethod
    def now(cls) -> "Generators":
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Puts the states back."""
        torch.set_rng_state(self.torch_state)
        if self.cuda_state is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.cuda_state)
        np.random.set_state(self.numpy_state)
        random.setstate(self.python_state)

    def tensors(self) -> dict[str, Tensor]:
        _, keys, place, has_normal, normal = self.numpy_state
        version, words, gauss = self.python_state
        tensors = {
            "torch": self.torch_state,
            "numpy": torch.from_numpy(np.array([*keys, place, has_normal], dtype=np.int64)),
            "numpy_normal": torch.tensor([normal], dtype=torch.float64),
            "python": torch.tensor([version, *words], dtype=torch.int64),
            "python_normal": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        }
        return tensors if self.cuda_state is None else tensors | {"cuda": self.cuda_state}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Generators":
        *keys, place, has_normal = tensors["numpy"].tolist()
        numpy_state = ("MT19937", np.array(keys, dtype=np.uint32), place, has_normal, float(tensors["numpy_normal"]))
        version, *words = tensors["python"].tolist()
        gauss = next(iter(tensors["python_normal"].tolist()), None)
        return cls(tensors["torch"], tensors.get("cuda"), numpy_state, (version, tuple(words), gauss))


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().contiguous()


def _like(current: Tensor | None, tensor: Tensor) -> Tensor:
    """The tensor, spread over the processes as `current` is; scalars (an optimizer's step count) are not spread."""
    if isinstance(current, DTensor) and tensor.shape == current.shape:
        # Every process has the whole tensor, so none has to send it.
        return distribute_tensor(tensor.to(current.device), current.device_mesh, current.placements, src_data_rank=None)
    return tensor
