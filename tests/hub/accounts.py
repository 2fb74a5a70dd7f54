"""Calls about no repository in particular: who am I, create, delete, is this model card well-formed."""

import re

from tests.hub.cards import check_card
from tests.hub.exchange import Answer, RefusedError, Request, answer_json
from tests.hub.repository import new_repository
from tests.hub.state import Account, State

NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?")


def needed_account(state: State, request: Request) -> Account:
    account = state.account(request)
    if account is None:
        raise RefusedError(401, "Invalid username or password.")
    return account


def whoami(state: State, request: Request) -> Answer:
    account = needed_account(state, request)
    return answer_json(
        {
            "type": "user",
            "id": f"id-of-{account.name}",
            "name": account.name,
            "fullname": account.name,
            "email": f"{account.name}@example.org",
            "orgs": [{"type": "org", "name": name, "roleInOrg": "admin"} for name in account.organizations],
            "auth": {"type": "access_token", "accessToken": {"displayName": "tests", "role": account.role}},
        }
    )


def wanted_name(state: State, request: Request) -> tuple[Account, str, str]:
    account = needed_account(state, request)
    wanted = request.json()
    namespace = wanted.get("organization") or account.name
    state.may_write(account, namespace)
    return account, wanted.get("type") or "model", f"{namespace}/{wanted['name']}"


def create_repository(state: State, request: Request) -> Answer:
    account, type_, id_ = wanted_name(state, request)
    wanted = request.json()
    if not NAME.fullmatch(wanted["name"]):
        raise RefusedError(400, f"Invalid repository name: {wanted['name']}")
    prefix = "" if type_ == "model" else f"{type_}s/"
    url = f"{state.endpoint}/{prefix}{id_}"
    if (type_, id_) in state.repositories:
        said = f"You already created this {type_} repo: {id_}"
        return answer_json({"error": said, "url": url}, 409, {"X-Error-Message": said})
    private = wanted.get("visibility") == "private" or wanted.get("private") is True
    state.repositories[type_, id_] = new_repository(type_, id_, account.name, private)
    return answer_json({"url": url, "name": id_, "id": f"id-of-{id_}"})


def delete_repository(state: State, request: Request) -> Answer:
    _, type_, id_ = wanted_name(state, request)
    if state.repositories.pop((type_, id_), None) is None:
        raise RefusedError(404, "Repository not found", "RepoNotFound")
    return answer_json({})


def validate_yaml(state: State, request: Request) -> Answer:
    state.account(request)  # a wrong token is refused here too
    wanted = request.json()
    errors, warnings = check_card(wanted.get("content", ""), wanted.get("repoType", "model"))
    found = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return answer_json(found, 400 if errors else 200)
