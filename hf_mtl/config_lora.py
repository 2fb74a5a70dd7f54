"""The keys of a run file's `lora`, and the checks that take more than one of them."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from hf_mtl.config_messages import Problem, shown
from hf_mtl.config_section import UNREAD, Count, Section, Text

ALL_LINEAR = "all-linear"
"""PEFT's word for every linear layer."""
CHANGE_OR_DATA = ("pissa", "olora", "corda", "loftq", "lora_ga", "eva")
"""How the names begin of PEFT's ways to initialise an adapter that change the base or look at rows."""

LayerNumber = Annotated[int, Field(ge=0)]


class LoraSection(Section):
    """Low-rank adapters in the encoder: fields of PEFT's LoraConfig, and whose they are."""

    refused: ClassVar[Mapping[str, str]] = {
        "bias": "adapters leave the encoder's own weights alone; train_encoder trains them",
        "fan_in_fan_out": "only linear layers get adapters",
        "inference_mode": "it follows from what is done with the model",
        "layers_pattern": "layers_to_transform alone is enough",
        "lora_bias": "adapters have no biases",
        "modules_to_save": "the heads are always trained and saved",
        "target_parameters": "only linear layers get adapters; see target_modules",
        "task_type": "every task has its own",
        "trainable_token_indices": "the embeddings are trained with train_encoder or not at all",
        **dict.fromkeys(
            ("corda_config", "eva_config", "loftq_config", "lora_ga_config"),
            "it belongs to a value of init_lora_weights that is not taken",
        ),
    }

    scope: Literal["shared", "per_task", "both"] = "shared"
    """One adapter for all tasks, one for each task, or the sum of both."""
    train_encoder: bool = False
    """Whether the encoder's own weights are trained too."""
    load_in_4bit: bool = False
    """Whether the encoder's own weights are held in 4 bits by bitsandbytes; needs a GPU."""
    r: Count = 8
    """The rank."""
    lora_alpha: Count = 8
    """What an adapter gives is multiplied by lora_alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of what an adapter reads."""
    target_modules: Text | Annotated[list[Text], Field(min_length=1)] = ALL_LINEAR
    """The layers that get adapters: all-linear, a list of names or their ends, or a regular expression of names."""
    exclude_modules: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    """Layers that get none, by a list or a regular expression."""
    layers_to_transform: LayerNumber | Annotated[list[LayerNumber], Field(min_length=1)] | None = None
    """The only layers of the encoder that get adapters, counted from 0 at the bottom."""
    rank_pattern: dict[Text, Count] = {}
    """Other ranks by the ends of names, which may be regular expressions."""
    alpha_pattern: dict[Text, Count] = {}
    """Other lora_alpha by the ends of names, which may be regular expressions."""
    use_rslora: bool = False
    """Whether it is multiplied by lora_alpha / √r instead."""
    use_dora: bool = False
    """Whether the sizes of the weights are learnt apart from their directions (DoRA)."""
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True
    """How adapters begin: true, gaussian or orthogonal so that they change nothing; false at random."""

    @field_validator("target_modules", "exclude_modules")
    @classmethod
    def _expression(cls, names: str | list[str] | None) -> str | list[str] | None:
        if isinstance(names, str):
            _compile(names)
        return names

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _expressions(cls, pattern: dict[str, int]) -> dict[str, int]:
        for name in pattern:
            _compile(f"({name})", name)
        return pattern

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _leaves_the_encoder(cls, way: Any) -> Any:
        if isinstance(way, str) and way.lower().startswith(CHANGE_OR_DATA):
            raise ValueError(
                f"{shown(way)} changes the encoder's own weights or needs data before training; "
                "use true, gaussian, orthogonal or false"
            )
        return way


def _compile(expression: str, given: str | None = None) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"{shown(given or expression)} is not a regular expression: {error.msg}") from None


def lora_problems(lora: LoraSection, tasks: int, freeze: Any) -> Iterator[Problem]:
    """What is wrong between the keys of `lora`, and between them and others.

    Args:
        lora: what could be read of the section.
        tasks: how many tasks the run has.
        freeze: the run's `training.freeze`.
    """
    if lora.scope in ("per_task", "both") and tasks == 1:
        yield ("lora", "scope"), f"{lora.scope} keeps tasks apart, and there is one task; use shared"
    if lora.use_dora is True and lora.scope == "both":
        yield ("lora", "use_dora"), "not with scope both: DoRA adapters cannot be added up; use shared or per_task"
    if lora.load_in_4bit is True and lora.train_encoder is True:
        yield ("lora", "train_encoder"), "not with load_in_4bit: weights in 4 bits are not trained; remove one of them"
    if lora.load_in_4bit is True and lora.init_lora_weights == "orthogonal":
        yield ("lora", "init_lora_weights"), "orthogonal is not for weights in 4 bits; use true or gaussian"
    expression = isinstance(lora.target_modules, str) and lora.target_modules != ALL_LINEAR
    if expression and lora.layers_to_transform not in (None, UNREAD):
        hint = "write the layers into it, or list the modules"
        yield ("lora", "layers_to_transform"), f"not with a regular expression in target_modules; {hint}"
    if lora.init_lora_weights == "orthogonal":
        yield from _odd_ranks(lora)
    if freeze in (None, UNREAD):
        return
    if lora.train_encoder is False:
        hint = "remove freeze, or set lora.train_encoder"
        yield ("training", "freeze"), f"lora leaves the encoder's own weights untrained already; {hint}"
    elif freeze == "encoder" and lora.train_encoder is True:
        yield ("training", "freeze"), "encoder leaves nothing to lora.train_encoder; remove one of them"


def _odd_ranks(lora: LoraSection) -> Iterator[Problem]:
    ranks: dict[tuple[str, ...], Any] = {("r",): lora.r}
    if isinstance(lora.rank_pattern, dict):
        ranks |= {("rank_pattern", name): rank for name, rank in lora.rank_pattern.items()}
    for place, rank in ranks.items():
        if isinstance(rank, int) and rank % 2:
            yield ("lora", *place), f"{rank} is odd; init_lora_weights orthogonal needs even ranks"
