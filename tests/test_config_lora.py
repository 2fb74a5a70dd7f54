"""The run file's `lora`: PEFT's names and defaults, what is refused of PEFT's, contradictions with other keys."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from hf_mtl.config import load_config
from hf_mtl.config_lora import CHANGE_OR_DATA, LoraSection
from hf_mtl.run_file import write_run_file
from tests.run_dicts import GONE, changed, errors_of

OURS = {"scope", "train_encoder", "load_in_4bit"}


def with_lora(**lora: Any) -> dict[str, Any]:
    return changed(lora=lora)


def test_no_lora_is_no_adapter_and_an_empty_one_a_shared_adapter() -> None:
    assert load_config(changed()).lora is None
    assert load_config(changed(lora=None)).lora is None
    assert load_config(with_lora()).lora == LoraSection(scope="shared")
    assert load_config(changed(), ["lora.r=16"]).lora == LoraSection(r=16)


def test_keys_have_the_names_and_defaults_of_peft() -> None:
    from peft import LoraConfig

    theirs = LoraConfig()
    keys = LoraSection().model_dump()
    assert keys.keys() - {field.name for field in dataclasses.fields(LoraConfig)} == OURS
    assert {key for key in keys.keys() - OURS if keys[key] != getattr(theirs, key)} == {"target_modules"}


def test_the_refused_keys_are_peft_s() -> None:
    from peft import LoraConfig

    theirs = {field.name for field in dataclasses.fields(LoraConfig)}
    assert LoraSection.refused.keys() <= theirs - LoraSection.model_fields.keys()


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["query", "value"], "layers_to_transform": [0, 1], "r": 4},
        {"target_modules": r".*\.(query|value)", "exclude_modules": ["pooler.dense"]},
        {"layers_to_transform": 3, "exclude_modules": r".*\.dense"},
        {"rank_pattern": {"query": 16}, "alpha_pattern": {r"layer\.0\..*": 32}, "use_rslora": True},
        {"init_lora_weights": False},
        {"init_lora_weights": "orthogonal", "rank_pattern": {"query": 2}},
        {"scope": "per_task", "use_dora": True, "lora_dropout": 0.1},
        {"scope": "both", "init_lora_weights": "gaussian"},
        {"load_in_4bit": True, "use_dora": True},
    ],
)
def test_a_good_section_is_taken_by_peft_and_loads_back_equal(lora: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig

    config = load_config(with_lora(**lora))
    write_run_file(config, tmp_path / "run.yaml")
    assert load_config(tmp_path / "run.yaml") == config
    assert config.lora is not None
    passed = config.lora.model_dump(exclude=OURS, exclude_unset=True)
    assert passed == {key: value for key, value in lora.items() if key not in OURS}
    assert LoraConfig(**passed | {"target_modules": ["query"]}).r == config.lora.r  # layers need a list in PEFT


@pytest.mark.parametrize(
    ("lora", "path", "message"),
    [
        ({"scope": "task"}, "scope", "'task' is not a scope; use one of shared, per_task, both"),
        ({"r": 0}, "r", "0 is not a number of at least 1"),
        ({"r": 8.0}, "r", "8.0 is not a whole number"),
        ({"lora_alpha": 0}, "lora_alpha", "0 is not a number of at least 1"),
        ({"lora_dropout": 1.0}, "lora_dropout", "1.0 is not a number below 1"),
        ({"target_modules": None}, "target_modules", "null is not text or a list"),
        ({"target_modules": []}, "target_modules", "empty; at least one is needed"),
        ({"target_modules": ["query", ""]}, "target_modules[1]", "empty"),
        ({"target_modules": "(query"}, "target_modules", "'(query' is not a regular expression: "),
        ({"exclude_modules": "*"}, "exclude_modules", "'*' is not a regular expression: nothing to repeat"),
        ({"rank_pattern": {"query": 4, "(a": 2}}, "rank_pattern", "'(a' is not a regular expression: "),
        ({"alpha_pattern": {"query": 0}}, "alpha_pattern.query", "0 is not a number of at least 1"),
        ({"layers_to_transform": True}, "layers_to_transform", "true is not a whole number or a list"),
        ({"layers_to_transform": []}, "layers_to_transform", "empty; at least one is needed"),
        ({"layers_to_transform": [0, -1]}, "layers_to_transform[1]", "-1 is not a number of at least 0"),
        ({"use_dora": 1}, "use_dora", "1 is not true or false"),
        ({"init_lora_weights": "gausian"}, "init_lora_weights", "is not true or false, gaussian or orthogonal"),
        ({"lora_drop": 0.1}, "lora_drop", "unknown key; did you mean lora_dropout?"),
        ({"learning_rate": 0.1}, "learning_rate", "unknown key; did you mean training.learning_rate?"),
        ({"modules_to_save": ["head"]}, "modules_to_save", "not a key here: the heads are always trained and saved"),
        ({"bias": "all"}, "bias", "not a key here: adapters leave the encoder's own weights alone; train_encoder "),
        ({"init_lora_weights": "orthogonal", "r": 3}, "r", "3 is odd; init_lora_weights orthogonal needs even ranks"),
        (
            {"init_lora_weights": "orthogonal", "rank_pattern": {"query": 4, "value": 5}},
            "rank_pattern.value",
            "5 is odd; init_lora_weights orthogonal needs even ranks",
        ),
        ({"init_lora_weights": "orthogonal", "load_in_4bit": True}, "init_lora_weights", "use true or gaussian"),
        ({"scope": "both", "use_dora": True}, "use_dora", "DoRA adapters cannot be added up; use shared or per_task"),
        ({"train_encoder": True, "load_in_4bit": True}, "train_encoder", "weights in 4 bits are not trained"),
        (
            {"target_modules": r".*\.query", "layers_to_transform": [0]},
            "layers_to_transform",
            "not with a regular expression in target_modules",
        ),
    ],
)
def test_what_is_wrong_in_the_section_is_told_at_its_key_alone(lora: dict[str, Any], path: str, message: str) -> None:
    errors = errors_of(with_lora(**lora))
    assert list(errors) == [f"lora.{path}"]
    assert message in errors[f"lora.{path}"]


@pytest.mark.parametrize(
    "way", ["pissa", "pissa_niter_16", "PiSSA", "olora", "OLoRA", "eva", "corda", "loftq", "lora_ga"]
)
def test_ways_to_begin_that_change_the_encoder_or_need_data_are_refused_with_the_reason(way: str) -> None:
    message = errors_of(with_lora(init_lora_weights=way))["lora.init_lora_weights"]
    assert message == (
        f"{way!r} changes the encoder's own weights or needs data before training; "
        "use true, gaussian, orthogonal or false"
    )


def test_every_other_way_to_begin_that_peft_knows_is_refused() -> None:
    from peft import LoraConfig

    known = set(re.findall(r"'([a-z_]+)", str(LoraConfig.__annotations__["init_lora_weights"])))
    assert {"gaussian", "pissa"} <= known
    for way in known - {"gaussian", "orthogonal"}:
        message = errors_of(with_lora(init_lora_weights=way))["lora.init_lora_weights"]
        assert ("changes the encoder's own weights" in message) == way.startswith(CHANGE_OR_DATA)


@pytest.mark.parametrize("scope", ["per_task", "both"])
def test_one_task_has_nothing_to_keep_apart(scope: str) -> None:
    one = changed(lora={"scope": scope}, tasks__slots=GONE, datasets__words=GONE)
    message = f"{scope} keeps tasks apart, and there is one task; use shared"
    assert errors_of(one) == {"lora.scope": message}
    one["lora"]["scope"] = "shared"
    assert load_config(one).lora == LoraSection()


def test_an_odd_rank_is_fine_where_nothing_needs_an_even_one() -> None:
    assert load_config(with_lora(r=3, init_lora_weights="gaussian"))


@pytest.mark.parametrize("freeze", ["embeddings", "encoder", {"layers": "0-3"}])
def test_freeze_has_nothing_to_do_beside_lora_unless_the_encoder_is_trained_too(freeze: Any) -> None:
    errors = errors_of(changed(lora={}, training__freeze=freeze))
    assert errors == {
        "training.freeze": "lora leaves the encoder's own weights untrained already; "
        "remove freeze, or set lora.train_encoder"
    }
    both = changed(lora={"train_encoder": True}, training__freeze=freeze)
    if freeze == "encoder":
        assert errors_of(both) == {
            "training.freeze": "encoder leaves nothing to lora.train_encoder; remove one of them"
        }
    else:
        assert load_config(both).lora == LoraSection(train_encoder=True)


def test_a_value_that_cannot_be_read_is_in_no_contradiction() -> None:
    assert list(errors_of(changed(lora={"train_encoder": 1}, training__freeze="encoder"))) == ["lora.train_encoder"]
    assert list(errors_of(changed(lora={"train_encodr": True}, training__freeze="encoder"))) == ["lora.train_encodr"]
    assert list(errors_of(changed(lora={}, training__freeze="heads"))) == ["training.freeze"]
    assert list(errors_of(changed(lora=["r"], training__freeze="encoder"))) == ["lora"]
    assert list(errors_of(changed(lora={"scope": "both"}, training=3))) == ["training"]
    assert list(errors_of(changed(lora={"scope": "both"}, tasks=3))) == ["tasks"]


def test_errors_of_the_section_come_with_those_of_others_in_the_order_of_the_file() -> None:
    run = {"lora": {"scope": "both", "rank": 4, "use_dora": True}, **changed(training__freeze="encoder")}
    run["max_length"] = 2
    assert list(errors_of(run)) == ["lora.rank", "lora.use_dora", "training.freeze", "max_length"]
