"""What the sections of a run file are made of."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hf_mtl.errors import UserError

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]

UNREAD: Any = ...
"""A value that could not be read: neither None nor equal to anything, so that no check takes the key for missing."""


class Section(BaseModel):
    """Keys and values of a run file, each of its kind and no other, that cannot be changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    refused: ClassVar[Mapping[str, str]] = {}
    """Keys that one could expect here, and why they are none."""


AnySection = TypeVar("AnySection", bound=Section)


def readable(section: type[AnySection], raw: Any, unread: Iterable[tuple[Any, ...]]) -> AnySection:
    """The section with what could be read; `unread` places in it, and required keys that are missing, are UNREAD."""
    if not isinstance(raw, Mapping):
        return UNREAD
    fields = section.model_fields
    values: dict[str, Any] = {name: UNREAD for name, field in fields.items() if field.is_required()}
    values |= {name: raw[name] for name in fields if name in raw}
    for name, *inner in unread:
        if inner and isinstance(values.get(name), Mapping):
            values[name] = {**values[name], inner[0]: UNREAD}
        elif name in fields:
            values[name] = UNREAD
    return section.model_construct(**values)


def written_out(section: type[Section], given: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a run file says under a key, with every default written out.

    Raises:
        UserError: for what a run file could not say there.
    """
    try:
        return section.model_validate(given).model_dump()
    except ValidationError as error:
        told = [f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
        raise UserError(f"{key}: {'; '.join(told)}") from None
