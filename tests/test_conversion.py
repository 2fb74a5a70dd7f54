import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, pipeline

from hf_mtl.errors import UserError
from hf_mtl.modeling.model import MultiTaskModel
from tests.tiny import ARCHITECTURES, tiny_batch, tiny_config, tiny_encoder, tiny_model, tiny_tasks, tiny_tokenizer

TEXTS = ["Play the newest song by Taylor Swift", "今天天气怎么样？", "Hi"]
PAIRS = ["Add it to my playlist", "明天早上", "Hello there, my friend"]
ALL = (*ARCHITECTURES, "qwen3")


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("architecture", ALL)
def test_a_task_taken_out_is_a_stock_model_with_the_same_answers(architecture, tmp_path):
    model = tiny_model(tmp_path / "encoder", architecture)
    single, pair = tiny_batch(architecture, TEXTS), tiny_batch(architecture, TEXTS, PAIRS)
    for name, task in model.tasks.items():
        stock = model.task_model(name)
        assert type(stock) is type(task.auto_class.from_config(stock.config))
        stock.save_pretrained(tmp_path / name)
        read, info = task.auto_class.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info.values()), info
        assert same(stock, read)
        assert read.config.architectures == [type(stock).__name__]
        assert read.config.problem_type == task.spec.problem_type
        labels = task.spec.label_list or ["LABEL_0"]
        assert read.config.id2label == dict(enumerate(labels))
        assert read.config.label2id == {label: place for place, label in enumerate(labels)}
        for batch in (single, pair):
            logits = model(**batch).logits[name]
            assert torch.equal(stock(**batch).logits, logits)
            # A checkpoint is mapped into memory at odd addresses, which moves the last bit of some products.
            torch.testing.assert_close(read(**batch).logits, logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ALL)
def test_taking_all_tasks_out_and_putting_them_together_changes_no_bit(architecture, tmp_path):
    model = tiny_model(tmp_path / "encoder", architecture)
    again = MultiTaskModel.from_task_models(**{name: model.task_model(name) for name in model.tasks})
    assert same(model, again)
    assert again.config.to_dict() == model.config.to_dict()
    batch = tiny_batch(architecture, TEXTS)
    for name, logits in model(**batch).logits.items():
        assert torch.equal(again(**batch).logits[name], logits)


def test_what_only_a_multi_task_model_knows_survives_the_way_through_stock_models(tmp_path):
    tasks = tiny_tasks()
    tasks[0].spec = replace(tasks[0].spec, text_pair=True)
    tasks[1].spec = replace(tasks[1].spec, threshold=0.35)
    model = tiny_model(tmp_path / "encoder", tasks=tasks)
    stock = {}
    for name, task in model.tasks.items():
        model.task_model(name).save_pretrained(tmp_path / name)
        stock[name] = task.auto_class.from_pretrained(tmp_path / name)
    again = MultiTaskModel.from_task_models(**stock)
    assert [task.spec for task in again.tasks.values()] == [task.spec for task in tasks]
    # A plain task needs no such note in its config.
    assert not hasattr(stock["slots"].config, "hf_mtl_task")
    assert stock["moods"].config.hf_mtl_task == {"threshold": 0.35}


def test_a_task_model_has_weights_of_its_own(tmp_path):
    model = tiny_model(tmp_path)
    stock = model.task_model("topic")
    assert not stock.training
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in stock.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_task_model_works_in_the_stock_pipeline(tmp_path):
    model = tiny_model(tmp_path)
    found = pipeline("text-classification", model=model.task_model("topic"), tokenizer=tiny_tokenizer())(TEXTS[0])
    assert found[0]["label"] in {"books", "music", "weather"}


def test_a_task_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no task 'mood'; the model has topic, moods, score, slots"):
        tiny_model(tmp_path).task_model("mood")


def stock_model(name="topic", architecture="bert", seed=0, **changes):
    task = next(task for task in tiny_tasks() if task.name == name)
    config = tiny_config(architecture, **changes)
    for key, value in task.head_config().items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    return task.auto_class.from_config(config).eval()


def test_stock_models_are_put_on_one_encoder(caplog):
    topic, slots = stock_model("topic"), stock_model("slots", seed=1)
    model = MultiTaskModel.from_task_models(topic=topic, slots=slots)
    batch = tiny_batch("bert", TEXTS)
    assert torch.equal(model(**batch).logits["topic"], topic(**batch).logits)
    assert not torch.equal(model(**batch).logits["slots"], slots(**batch).logits)
    assert "task slots: its own encoder differs from the shared one, so its answers will change" in caplog.text
    assert "task topic" not in caplog.text
    assert torch.equal(model.heads["slots"].classifier.weight, slots.classifier.weight)
    assert torch.equal(model.heads["topic"].bert.pooler.dense.weight, topic.bert.pooler.dense.weight)
    assert model.tasks["slots"].spec.tag_scheme == "BIO"
    assert model.tasks["topic"].spec.label_list == ["books", "music", "weather"]
    assert model.config.encoder_config.num_labels == 2
    assert model.config.encoder_config.problem_type is None


def test_an_encoder_may_be_given(caplog):
    encoder = tiny_encoder(seed=3)
    pooler = encoder.pooler
    model = MultiTaskModel.from_task_models(encoder=encoder, topic=stock_model())
    wanted = {name: value for name, value in encoder.state_dict().items() if not name.startswith("pooler.")}
    assert all(torch.equal(value, wanted[name]) for name, value in model.encoder.state_dict().items())
    assert encoder.pooler is pooler
    assert "task topic: its own encoder differs" in caplog.text


def test_labels_tell_the_task():
    one = stock_model("score")
    one.config.problem_type = None
    model = MultiTaskModel.from_task_models(a=one, b=stock_model("moods"), c=stock_model("slots"))
    assert [task.spec.problem_type for task in model.tasks.values()] == [
        "regression",
        "multi_label_classification",
        None,
    ]
    assert model.tasks["a"].spec.label_list is None
    tagger = stock_model("slots")
    tagger.config.id2label = dict(enumerate(["NOUN", "VERB", "ADJ", "ADP", "DET"]))
    assert MultiTaskModel.from_task_models(pos=tagger).tasks["pos"].spec.tag_scheme == "none"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: {}, "no task model was given"),
        (lambda: {"topic": "bert-base-cased"}, "topic: str is not a stock task model"),
        (lambda: {"topic": tiny_encoder()}, "topic: BertModel is not a stock task model"),
        (lambda: {"topic": AutoModelForMaskedLM.from_config(tiny_config())}, "topic: BertForMaskedLM is not"),
        (
            lambda: {"topic": stock_model(), "mine": stock_model(architecture="roberta")},
            "mine: a roberta model cannot share an encoder of type bert",
        ),
        (
            lambda: {"topic": stock_model(), "mine": stock_model(num_hidden_layers=3)},
            r"mine: its config does not fit the shared encoder's: num_hidden_layers 3 \(encoder: 2\)",
        ),
        (
            lambda: {"topic": stock_model(), "mine": stock_model().to(torch.bfloat16)},
            "mine: its weights are torch.bfloat16, the encoder's torch.float32",
        ),
        (
            lambda: {
                "topic": stock_model(architecture="modernbert"),
                "mine": stock_model(architecture="modernbert", classifier_pooling="mean"),
            },
            r"mine: its config .* classifier_pooling 'mean' \(encoder: 'cls'\)",
        ),
        (lambda: {"encoder": stock_model(), "topic": stock_model()}, "encoder: .* is not a stock base model"),
        (lambda: {"keys": stock_model()}, "'keys' cannot name a task"),
    ],
)
def test_what_cannot_share_an_encoder_is_refused(models, message):
    with pytest.raises((ValueError, UserError), match=message):
        MultiTaskModel.from_task_models(**models())


def test_a_regression_with_several_values_is_refused():
    config = tiny_config()
    config.num_labels, config.problem_type = 3, "regression"
    with pytest.raises(ValueError, match="mine: a regression with 3 values"):
        MultiTaskModel.from_task_models(mine=AutoModelForSequenceClassification.from_config(config))


def test_dropout_may_differ_between_task_models():
    models = {"topic": stock_model(), "mine": stock_model(hidden_dropout_prob=0.3)}
    model = MultiTaskModel.from_task_models(**models)
    assert model.config.encoder_config.hidden_dropout_prob == 0.0
    assert isinstance(model.encoder, type(AutoModel.from_config(tiny_config())))
