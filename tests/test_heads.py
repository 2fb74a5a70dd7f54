import copy

import pytest
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hf_mtl.errors import UserError
from hf_mtl.modeling.heads import EncodedStates, head_class, head_config, new_head, stock_class
from hf_mtl.modeling.loading import load_encoder, load_encoder_config, load_head
from tests.tiny import ARCHITECTURES, save_tiny_encoder, tiny_batch, tiny_config, tiny_encoder, tiny_tasks

TOPIC, _, SCORE, SLOTS = tiny_tasks()
SOURCES = {
    "base": lambda config: AutoModel.from_config(config),
    "masked language model": lambda config: AutoModelForMaskedLM.from_config(config),
    "text classifier": lambda config: AutoModelForSequenceClassification.from_config(labelled(config, 3)),
    "text classifier with other labels": lambda config: AutoModelForSequenceClassification.from_config(
        labelled(config, 7)
    ),
    "tagger": lambda config: AutoModelForTokenClassification.from_config(labelled(config, 5)),
}


def labelled(config, count):
    config = copy.deepcopy(config)
    config.num_labels = count
    return config


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(params=SOURCES)
def checkpoint(request, architecture, tmp_path):
    torch.manual_seed(1)
    SOURCES[request.param](tiny_config(architecture)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("task", [TOPIC, SLOTS], ids=["text", "tokens"])
def test_a_new_head_starts_exactly_as_the_stock_class_starts_it(checkpoint, task):
    config = load_encoder_config(str(checkpoint))
    load = {"config": head_config(task, config), "ignore_mismatched_sizes": True, "output_loading_info": True}
    torch.manual_seed(2)
    stock, wanted = task.auto_class.from_pretrained(checkpoint, **load)
    torch.manual_seed(2)
    head, found = head_class(type(stock)).from_pretrained(checkpoint, **load)
    torch.manual_seed(2)
    loaded = load_head(str(checkpoint), task, config)

    assert found["missing_keys"] == wanted["missing_keys"]
    assert found["mismatched_keys"] == wanted["mismatched_keys"]
    values = stock.state_dict()
    body = {f"{stock.base_model_prefix}.{name}" for name in getattr(stock, stock.base_model_prefix).state_dict()}
    assert set(values) - set(head.state_dict()) <= body
    assert all(torch.equal(value, values[name]) for name, value in head.state_dict().items())
    assert all(torch.equal(value, values[name]) for name, value in loaded.state_dict().items())


def test_a_head_holds_no_encoder_and_keeps_the_stock_names(architecture):
    config = tiny_config(architecture)
    for task in (TOPIC, SLOTS):
        head = new_head(task, config)
        stock = task.auto_class.from_config(head_config(task, config))
        prefix = stock.base_model_prefix
        own = {name for name in stock.state_dict() if not name.startswith(prefix + ".")}
        pooler = {name for name in stock.state_dict() if name.startswith(prefix + ".pooler")}
        assert set(head.state_dict()) == own | pooler
        assert isinstance(getattr(head, prefix), EncodedStates)
        assert type(head).__name__ == type(stock).__name__
        assert isinstance(head, type(stock))


def test_a_new_head_gives_memory_to_its_own_weights_alone(architecture):
    given = []

    def note(module, name, parameter):
        if parameter is not None and not parameter.is_meta:
            given.append(parameter.numel())

    hook = register_module_parameter_registration_hook(note)
    try:
        head = new_head(TOPIC, tiny_config(architecture))
    finally:
        hook.remove()
    assert sum(given) <= sum(parameter.numel() for parameter in head.parameters())


def test_a_head_without_a_checkpoint_is_initialised_by_its_class(architecture):
    config = tiny_config(architecture, initializer_range=0.5, initializer_cutoff_factor=2.0)
    torch.manual_seed(0)
    first = new_head(TOPIC, config).state_dict()
    torch.manual_seed(0)
    again = new_head(TOPIC, config).state_dict()
    other = new_head(TOPIC, config).state_dict()
    matrices = {name for name, value in first.items() if value.dim() == 2}
    assert matrices
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in matrices)
    assert all(not value.is_meta and value.isfinite().all() for value in first.values())
    # ModernBERT draws its classifier with a std of hidden_size ** -0.5, and truncates.
    assert all(0.1 < first[name].std() < 0.7 for name in matrices)
    assert all(value.eq(0).all() for name, value in first.items() if name.endswith("bias"))


@pytest.mark.parametrize("task", [TOPIC, SCORE, SLOTS], ids=["text", "score", "tokens"])
def test_zero_rows_give_a_gradient_of_exactly_zero(architecture, task):
    encoder = tiny_encoder(architecture, **({"classifier_pooling": "mean"} if architecture == "modernbert" else {}))
    head = new_head(task, encoder.config).train()
    batch = tiny_batch(architecture, ["Play a song", "Hello there my friend"])
    states = encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    none = torch.empty(0, dtype=torch.int64)
    logits = task.logits(head, states[none], batch.input_ids[none], batch.attention_mask[none])
    assert logits.shape[0] == 0
    labels = task.collate([], batch.input_ids.shape[1])
    loss, items = task.loss(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert items.item() == 0
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.eq(0).all(), name


def test_an_encoder_without_the_task_s_head_is_refused():
    config = AutoModel.from_config(tiny_config()).config
    assert stock_class(TOPIC, config).__name__ == "BertForSequenceClassification"
    from transformers import T5Config, ViTConfig

    for other in (ViTConfig(), T5Config()):
        with pytest.raises(UserError, match="topic.*AutoModelForSequenceClassification.*choose an encoder"):
            stock_class(TOPIC, other)


def test_a_classifier_for_other_labels_is_named_when_it_is_left(tmp_path, caplog):
    AutoModelForSequenceClassification.from_config(labelled(tiny_config(), 7)).save_pretrained(tmp_path)
    load_head(str(tmp_path), TOPIC, load_encoder_config(str(tmp_path)))
    assert "task topic: classifier.bias, classifier.weight" in caplog.text
    assert "initialised anew" in caplog.text


def test_the_encoder_comes_from_any_stock_checkpoint_without_pooler_and_task(checkpoint):
    config = load_encoder_config(str(checkpoint))
    encoder = load_encoder(str(checkpoint), config)
    stock = AutoModel.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(value, stock[name]) for name, value in encoder.state_dict().items())
    assert set(stock) - set(encoder.state_dict()) == {name for name in stock if name.startswith("pooler.")}
    assert config.num_labels == 2
    assert config.architectures is None


def test_checkpoints_in_half_precision_are_widened(tmp_path):
    tiny_encoder().to(torch.bfloat16).save_pretrained(tmp_path)
    config = load_encoder_config(str(tmp_path))
    encoder = load_encoder(str(tmp_path), config)
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}
    assert {value.dtype for value in load_head(str(tmp_path), TOPIC, encoder.config).parameters()} == {torch.float32}


def test_heads_are_loaded_without_a_report_each(tmp_path, capfd, caplog):
    save_tiny_encoder(tmp_path)
    capfd.readouterr()
    config = load_encoder_config(str(tmp_path))
    load_encoder(str(tmp_path), config)
    load_head(str(tmp_path), TOPIC, config)
    written = capfd.readouterr()
    assert written.out + written.err + caplog.text == ""
