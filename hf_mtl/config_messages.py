"""The words of a run file's errors: what was found, what is allowed, and the nearest name."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Problem = tuple[tuple[Any, ...], str]
"""Where (keys from the top of the file, places in lists) and what."""

EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "none_required": "null",
    "string_type": "text",
}
LIMITS = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number of at most"),
}
UNKNOWN = ("extra_forbidden", "invalid_key")
NOUNS = {"batch": "kind of batch", "lr_scheduler_type": "schedule", "optim": "optimizer"}
"""Keys whose values are not called as the key is."""


def shown(value: Any) -> str:
    """A value as a message shows it: text in quotes, cut after 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping | list):
        return ("a " if value else "an empty ") + ("list" if isinstance(value, list) else "mapping")
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def listed(names: Iterable[Any], word: str = "or") -> str:
    """The names in a sentence: "a, b or c"."""
    names = list(dict.fromkeys(str(name) for name in names))
    return f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def nearest(name: Any, allowed: Iterable[Any], likeness: float = 0.6) -> str | None:
    """The allowed name most like `name`, if one is like it at all."""
    by_lower = {str(one).lower(): str(one) for one in allowed}
    matches = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=likeness)
    return by_lower[matches[0]] if matches else None


def use(name: Any, allowed: Sequence[Any]) -> str:
    """What to write in place of `name`: the nearest name, or all that are allowed."""
    near = nearest(name, allowed)
    return f"did you mean {near}?" if near else f"use one of {', '.join(dict.fromkeys(map(str, allowed)))}"


def key_path(location: Iterable[Any]) -> str:
    """Keys and list places as a message writes them: `tasks.slots.metrics[0]`."""
    parts = []
    for part in location:
        name = part if isinstance(part, str | int) and not isinstance(part, bool) else shown(part)
        parts.append(f"[{name}]" if isinstance(part, Place) else f".{name}")
    return "".join(parts).removeprefix(".")


class Place(int):
    """A place in a list (a plain integer is a key of a mapping)."""


def by_place(raw: Any, problems: Iterable[Problem]) -> list[Problem]:
    """The problems in the order of the file; those of keys that it does not have stand last in their mapping."""

    def rank(problem: Problem) -> list[int]:
        ranks: list[int] = []
        at = raw
        for part in problem[0]:
            if isinstance(at, Mapping):
                keys = list(at)
                ranks.append(keys.index(part) if part in keys else len(keys))
                at = at.get(part)
            else:
                ranks.append(int(part) if isinstance(part, Place) else 0)
                at = at[part] if isinstance(at, list) and isinstance(part, Place) and part < len(at) else None
        return ranks

    return sorted(problems, key=rank)


def schema_problems(
    error: ValidationError, model: type[BaseModel], raw: Any
) -> tuple[list[Problem], list[tuple[Any, ...]]]:
    """Pydantic's errors in our words, one for each place (a union gives one for each of its types).

    Returns:
        The problems, and the places of keys that unknown keys stand for: `label_column` is misspelt, not missing.
    """
    found: dict[tuple[Any, ...], list[Any]] = {}
    wrong_keys: dict[tuple[Any, ...], list[Any]] = {}
    meant: list[tuple[Any, ...]] = []
    for entry in error.errors(include_url=False):
        place = _location(entry["loc"], raw, missing=entry["type"] == "missing")
        (wrong_keys if "[key]" in entry["loc"] else found).setdefault(place, []).append(entry)
        if entry["type"] in UNKNOWN:
            meant.append((*place[:-1], nearest(place[-1], _section(model, place).model_fields)))
    # A list with a bad element is no "not text" beside it: the type of a union that got farthest is the one meant.
    outer = {place[:depth] for place in found for depth in range(len(place))}
    problems = [(place, _key_message(place[-1], entries)) for place, entries in wrong_keys.items()]
    for place, entries in found.items():
        if place not in outer and not (entries[0]["type"] == "missing" and place in meant):
            problems.append((place, _message(place, entries, model)))
    return problems, meant


def _location(loc: tuple[Any, ...], raw: Any, *, missing: bool) -> tuple[Any, ...]:
    """The place of an error without pydantic's names for the types of a union."""
    location: list[Any] = []
    at = raw
    for part in loc:
        # Pydantic calls a key that is no text by its text, so that null is "None".
        keys = [key for key in at if key == part or str(key) == part] if isinstance(at, Mapping) else []
        if keys:
            location.append(keys[0])
            at = at[keys[0]]
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            location.append(Place(part))
            at = at[part]
    return (*location, loc[-1]) if missing else tuple(location)


def _key_message(key: Any, entries: list[Any]) -> str:
    """What is wrong with a key of a mapping whose keys have a type."""
    if entries[0]["type"] == "literal_error":
        return f"unknown key; {use(key, list(_expected(entries)))}"
    if entries[0]["type"] == "string_too_short":
        return "an empty name"
    return f"the key {shown(key)} is not {listed(_expected(entries))}; put it in quotes"


def _message(place: tuple[Any, ...], entries: list[Any], model: type[BaseModel]) -> str:
    first, key = entries[0], place[-1] if place else ""
    kinds = [entry["type"] for entry in entries]
    value = first["input"]
    if kinds[0] in UNKNOWN:
        section = _section(model, place)
        why = getattr(section, "refused", {}).get(key)
        return f"not a key here: {why}" if why else f"unknown key; {_other_key(key, section, model)}"
    if kinds[0] == "missing":
        words = _section(model, place).model_fields[key].description or "a key that every run has"
        return f"missing: {words[0].lower()}{words[1:].rstrip('.')}"
    if "too_short" in kinds or "string_too_short" in kinds:
        return "empty; at least one is needed" if "too_short" in kinds else "empty"
    if kinds[0] == "value_error":
        return str(first["ctx"]["error"])
    if kinds == ["literal_error"]:
        choices = list(_expected(entries))
        noun = NOUNS.get(key, str(key).replace("_", " "))
        near = nearest(value, choices, likeness=0.8) if isinstance(value, str) else None
        hint = f"did you mean {near}? Use" if near else "use"
        return f"{shown(value)} is not {_article(noun)} {noun}; {hint} one of {', '.join(choices)}"
    quotes = kinds == ["string_type"] and isinstance(value, int | float)
    return f"{shown(value)} is not {listed(_expected(entries))}" + ("; put it in quotes" if quotes else "")


def _expected(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        kind, context = entry["type"], entry.get("ctx", {})
        if kind == "literal_error":
            yield from re.findall(r"'([^']*)'", context["expected"])
        elif kind in LIMITS:
            name, words = LIMITS[kind]
            yield f"{words} {context[name]:g}"
        else:
            yield EXPECTED.get(kind, entry["msg"])


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _section(model: type[BaseModel], place: tuple[Any, ...]) -> type[BaseModel]:
    """The model that holds the last key of `place`."""
    for part in place[:-1]:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = _model_in(field.annotation) if field else None
        model = inner or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for part in get_args(annotation) if (inner := _model_in(part))), None)


def _other_key(key: Any, section: type[BaseModel], model: type[BaseModel]) -> str:
    """The key that was meant: one that stands elsewhere under this name, or the nearest here."""
    places = {name: name for name in model.model_fields}
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        path = f"{name}.…" if inner and getattr(field.annotation, "__origin__", None) is dict else name
        places |= {each: f"{path}.{each}" for each in (inner.model_fields if inner else ())}
    if key in places:
        return f"did you mean {places[key]}?"
    return use(key, list(section.model_fields))


def at(prefix: tuple[Any, ...], problems: Iterable[Problem]) -> Iterator[Problem]:
    """The problems of a part of the file as those of the whole."""
    for place, message in problems:
        yield (*prefix, *place), message


def twice(names: Iterable[Any]) -> Iterator[Problem]:
    """A problem for each name that is given more than once."""
    seen: Counter[Any] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] == 2:
            yield (Place(index),), f"{shown(name)} is given twice"
