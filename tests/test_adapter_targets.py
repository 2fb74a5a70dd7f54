"""Which layers get adapters, and how large and how these begin."""

import pytest
import torch

from hf_mtl.errors import UserError
from hf_mtl.modeling.adapters import adapted_layers
from hf_mtl.modeling.building import Plan, new_parts, outlined_parts
from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import MIXED, alone, five_texts, settings, tiny_adapted
from tests.tiny import ARCHITECTURES, save_tiny_encoder, tiny_model, tiny_tasks


def targets(model):
    return {name.replace("encoder.layer.", "") for name in adapted_layers(model.encoder)}


BERT = {
    "all-linear": "attention.self.query attention.self.key attention.self.value attention.output.dense "
    "intermediate.dense output.dense"
}
CHOICES = {
    "all": ({}, [0, 1], BERT["all-linear"]),
    "names": ({"target_modules": ["query", "value"]}, [0, 1], "attention.self.query attention.self.value"),
    "longer names": ({"target_modules": ["attention.output.dense"]}, [0, 1], "attention.output.dense"),
    "an expression": ({"target_modules": r".*\.1\..*(query|key)"}, [1], "attention.self.query attention.self.key"),
    "a layer": ({"target_modules": ["query"], "layers_to_transform": 1}, [1], "attention.self.query"),
    "layers": ({"layers_to_transform": [0]}, [0], BERT["all-linear"]),
    "some left out": (
        {"exclude_modules": ["dense"]},
        [0, 1],
        "attention.self.query attention.self.key attention.self.value",
    ),
    "an expression left out": (
        {"target_modules": ["query", "dense"], "exclude_modules": r".*\.output\.dense|.*\.0\..*"},
        [1],
        "attention.self.query intermediate.dense",
    ),
}


@pytest.mark.parametrize(("lora", "layers", "names"), CHOICES.values(), ids=CHOICES)
def test_the_layers_that_are_named_get_adapters_and_no_others(tiny, lora, layers, names):
    model = tiny.new(scope="per_task", **lora)
    assert targets(model) == {f"{layer}.{name}" for layer in layers for name in names.split()}
    batch = five_texts()
    for task, logits in model(**batch, rows=MIXED).logits.items():
        if len(logits):
            torch.testing.assert_close(logits, alone(model, batch, MIXED, task), rtol=0, atol=1e-5)


def test_layers_are_counted_where_the_list_of_them_stands_at_the_top(tiny):
    model = tiny.new("modernbert", target_modules=["Wqkv"], layers_to_transform=[1])
    assert set(adapted_layers(model.encoder)) == {"layers.1.attn.Wqkv"}


@pytest.mark.parametrize(
    ("architecture", "lora", "message"),
    [
        ("bert", {"target_modules": ["query", "Wqkv"]}, r"target_modules: the encoder has no linear layer called Wqkv; "
         r"it has attention.output.dense, attention.self.key, attention.self.query"),
        ("bert", {"target_modules": "query"}, "target_modules: the encoder has no linear layer called query; it has"),
        ("bert", {"target_modules": ["ery"]}, "target_modules: the encoder has no linear layer called ery"),
        ("bert", {"target_modules": ["word_embeddings"]}, "no linear layer called word_embeddings"),
        ("bert", {"target_modules": ["pooler.dense"]}, "no linear layer called pooler.dense"),
        ("bert", {"exclude_modules": ["querry"]}, "exclude_modules: the encoder has no linear layer called querry"),
        ("bert", {"layers_to_transform": [0, 2]}, "layers_to_transform: 2 is no layer of the encoder; the last one is "
         "1"),
        ("bert", {"target_modules": ["query"], "exclude_modules": ["self.query"]}, "no layer of the encoder gets an "
         "adapter"),
        ("bert", {"rank_pattern": {"qeury": 4}}, "rank_pattern: .*qeury"),
        ("bert", {"target_modules": ["query"], "alpha_pattern": {"value": 4}}, "alpha_pattern: .*value"),
        ("albert", {"layers_to_transform": [0]}, "layers_to_transform: the encoder .albert. has no list of layers of "
         "its own; leave the key out"),
    ],
)  # fmt: skip
def test_layers_that_are_not_there_are_refused(tiny, architecture, lora, message):
    with pytest.raises(UserError, match=message):
        tiny.new(architecture, **lora)


def test_what_also_reads_positions_is_adapted_for_all_tasks_or_not_at_all(tiny):
    def ends(**lora):
        found = adapted_layers(tiny.model("deberta-v2", **lora).encoder)
        return {name.removeprefix("encoder.layer.").split(".", 1)[1] for name in found}

    by_row = {"attention.self.value_proj", "attention.output.dense", "intermediate.dense", "output.dense"}
    assert ends(scope="per_task") == ends(scope="both", use_rslora=True) == by_row
    assert ends(scope="shared") - by_row == {"attention.self.query_proj", "attention.self.key_proj"}
    with pytest.raises(UserError, match="query_proj of deberta-v2 also read what is no row .*use scope: shared"):
        tiny.new("deberta-v2", scope="per_task", target_modules=["query_proj", "value_proj"])
    assert ends(target_modules=["query_proj"]) == {"attention.self.query_proj"}


def test_what_reads_positions_alone_is_left_out_where_rows_have_projections_of_their_own(tmp_path):
    save_tiny_encoder(tmp_path, "deberta-v2")
    found = adapted_layers(tiny_adapted(tmp_path, "deberta-v2", scope="per_task").encoder)
    assert not [name for name in found if "pos_" in name]
    assert [name for name in found if name.endswith("self.query_proj")]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "qwen3"])
def test_an_encoder_without_values_gets_the_adapters_that_one_with_values_gets(tiny, architecture):
    """`check` makes such a one."""
    plan = Plan.of(str(tiny.encoder(architecture)), tiny_tasks()[2:], lora=settings(scope="per_task"))
    outlined, real = (adapted_layers(made(plan)[0].encoder) for made in (outlined_parts, new_parts))
    assert {name: set(layer.lora_A) for name, layer in outlined.items()} == {
        name: set(layer.lora_A) for name, layer in real.items()
    }


@pytest.mark.parametrize(
    ("way", "same"), [(True, True), ("gaussian", True), ("orthogonal", False), (False, False)]
)  # fmt: skip
def test_how_an_adapter_begins(tiny, way, same):
    torch.manual_seed(0)
    lora = settings(scope="per_task", init_lora_weights=way)
    model = MultiTaskModel.from_encoder(str(tiny.encoder()), tiny_tasks(), lora=lora)
    bare = tiny_model(tiny.encoder())
    first, other = model.encode(**five_texts())["topic"], model.encode(**five_texts())["slots"]
    wanted = bare.encode(**five_texts())["topic"]
    assert torch.equal(first, wanted) == (way in (True, "gaussian"))
    # Orthogonal factors are no zeros, but their product is zero but for rounding.
    assert ((first - wanted).abs().max() < 1e-5) == (way is not False)
    assert torch.equal(first, other) == same
    weights = dict(model.encoder.named_parameters())
    down = next(name for name in weights if "lora_A.topic" in name)
    assert not torch.equal(weights[down], weights[down.replace("topic", "slots")])


def test_new_adapters_come_from_the_global_generator(tiny):
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = MultiTaskModel.from_encoder(str(tiny.encoder()), tiny_tasks(), lora=settings(scope="both"))
        found.append(next(weight for name, weight in model.named_parameters() if ".lora_A." in name))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_ranks_and_scales_are_as_they_are_named(tiny):
    names = {"rank_pattern": {"query": 2, r".*\.1\..*value": 3}, "alpha_pattern": {"0.attention.self.key": 16}}
    model = tiny.new(r=4, lora_alpha=6, use_rslora=True, **names)
    layers = adapted_layers(model.encoder)
    ranks = {name: layer.lora_A["shared"].weight.shape[0] for name, layer in layers.items()}
    assert {rank for name, rank in ranks.items() if name.endswith("query")} == {2}
    assert ranks["encoder.layer.1.attention.self.value"] == 3
    assert ranks["encoder.layer.0.attention.self.value"] == 4
    assert layers["encoder.layer.0.attention.self.key"].scaling["shared"] == 8
    assert layers["encoder.layer.1.attention.self.key"].scaling["shared"] == 3
