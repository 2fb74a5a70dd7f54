"""What the local Hub's routes take and give: requests, answers, refusals."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote


class Call(NamedTuple):
    """One call that the local Hub got; `status` is 0 where the connection was cut, `headers` are the request's."""

    method: str
    path: str
    status: int
    headers: dict[str, str]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    """As sent: percent signs stand, the query is gone."""
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise RefusedError(400, f"the body is no JSON: {error}") from None

    def form(self) -> dict[str, list[str]]:
        """Fields of a form, or of a JSON object in its place."""
        if "json" in self.headers.get("content-type", ""):
            return {key: value if isinstance(value, list) else [str(value)] for key, value in self.json().items()}
        return parse_qs(self.body.decode())

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[-1].lower() in ("true", "1")


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def answer_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


class RefusedError(Exception):
    """An answer that says no: `code` goes into X-Error-Code, the message into X-Error-Message and the body."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | dict(headers or {})
        self.answer = answer_json({"error": message}, status, named)


def unquoted(part: str | None, default: str = "") -> str:
    return unquote(part) if part else default
