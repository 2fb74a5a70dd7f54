"""The metadata at the head of a README, as the Hub reads it and finds fault with it."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n?^---[ \t]*$", re.DOTALL | re.MULTILINE)
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*|code|multilingual")
LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
    gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql
    ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 gemma unknown other
"""


def metadata(text: str) -> Any:
    """What stands between the two `---` lines; None where nothing does. Raises `yaml.YAMLError`."""
    found = FRONT_MATTER.search(text.lstrip("\ufeff"))
    return yaml.safe_load(found[1]) if found else None


def check_card(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """The errors and the warnings of a README: a part of the real Hub's rules."""
    try:
        found = metadata(text)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if not found:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(found, dict):
        return ["YAML metadata must be a mapping"], []
    errors = [*check_lists(found), *check_license(found)]
    if repo_type == "model":
        errors += [*check_base_model(found), *check_model_index(found.get("model-index"))]
    return errors, list(check_names(found))


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def check_lists(found: dict[str, Any]) -> Iterator[str]:
    if "tags" in found and not (isinstance(found["tags"], list) and all(isinstance(tag, str) for tag in found["tags"])):
        yield '"tags" must be an array of strings'
    for key in ("library_name", "pipeline_tag"):
        if key in found and not isinstance(found[key], str):
            yield f'"{key}" must be a string'
    for number, code in enumerate(listed(found.get("language"))):
        if not (isinstance(code, str) and LANGUAGE.fullmatch(code)):
            yield f'"language[{number}]" with value {code!r} is not valid: it must be an ISO 639 code in lower case'


def check_license(found: dict[str, Any]) -> Iterator[str]:
    for name in listed(found.get("license")):
        if name not in LICENSES.split():
            yield f'"license" with value {name!r} is not one of [{", ".join(LICENSES.split())}]'


def check_base_model(found: dict[str, Any]) -> Iterator[str]:
    for name in listed(found.get("base_model")):
        if not (isinstance(name, str) and REPO_ID.fullmatch(name)):
            yield f'"base_model" with value {name!r} is not valid. Use a model id from https://hf.co/models.'


def check_names(found: dict[str, Any]) -> Iterator[str]:
    for number, name in enumerate(listed(found.get("datasets"))):
        if not (isinstance(name, str) and REPO_ID.fullmatch(name)):
            yield f'"datasets[{number}]" with value {name!r} is not valid. If possible, use a dataset id.'


def check_model_index(index: Any) -> Iterator[str]:
    if index is None:
        return
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for number, model in enumerate(index):
        at = f"model-index[{number}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            yield f'"{at}.name" is required'
            continue
        results = model.get("results")
        if not isinstance(results, list):
            yield f'"{at}.results" must be an array'
            continue
        for place, result in enumerate(results):
            yield from check_result(f"{at}.results[{place}]", result)


def check_result(at: str, result: Any) -> Iterator[str]:
    if not isinstance(result, dict):
        yield f'"{at}" must be an object'
        return
    wanted = {"task": ("type",), "dataset": ("type", "name")}
    for key, names in wanted.items():
        for name in names:
            if not isinstance((result.get(key) or {}).get(name), str):
                yield f'"{at}.{key}.{name}" is required'
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f'"{at}.metrics" is required'
        return
    for number, metric in enumerate(metrics):
        for name in ("type", "value"):
            if not isinstance(metric, dict) or metric.get(name) is None:
                yield f'"{at}.metrics[{number}].{name}" is required'
