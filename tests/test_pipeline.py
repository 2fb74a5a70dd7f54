"""The pipeline: one pass for all tasks, and for each the stock pipeline's own answer."""

import itertools

import pytest
import transformers

from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.types import build_task
from tests.piped import LENGTH, STRATEGIES, TEXTS, assert_same, saved, stock_answer
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module", params=["bert", "roberta", "modernbert", "xlm-roberta"])
def each(request, tmp_path_factory):
    return saved(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("bert"), "bert", pairs=True)


def test_special_tokens_in_a_text_stay_text(bert):
    assert bert.pipe.tokenizer("a [SEP] b")["input_ids"].count(bert.pipe.tokenizer.sep_token_id) == 1
    answer = bert.pipe("[SEP]", ignore_labels=[])
    assert_same(answer["slots"], stock_answer(bert, "slots", "[SEP]", ignore_labels=[]))
    assert len(answer["slots"]) > 1


@pytest.mark.parametrize("batch_size", [1, 7])
def test_text_tasks_answer_as_the_stock_pipeline(each, batch_size):
    answers = each.pipe(TEXTS, batch_size=batch_size)
    for text, answer in zip(TEXTS, answers, strict=True):
        assert list(answer) == ["topic", "moods", "score", "slots"]
        for task in ("topic", "moods", "score"):
            assert_same(answer[task], stock_answer(each, task, text))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize(
    ("strategy", "stride"),
    [
        *itertools.product(STRATEGIES, [None]),
        *itertools.product(STRATEGIES[1:], [0, 5]),
    ],
)
def test_tags_are_those_of_the_stock_pipeline(each, strategy, stride, batch_size):
    options = {"aggregation_strategy": strategy} | ({} if stride is None else {"stride": stride})
    answers = each.pipe(TEXTS, tasks=["slots"], batch_size=batch_size, **options)
    for text, answer in zip(TEXTS, answers, strict=True):
        assert_same(answer["slots"], stock_answer(each, "slots", text, **options))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_a_text_of_5000_words_is_read_to_its_end_with_a_stride(each, monkeypatch):
    for tokenizer in (each.pipe.tokenizer, each.stock["topic"].tokenizer, each.stock["slots"].tokenizer):
        monkeypatch.setattr(tokenizer, "model_max_length", 72)
    words = itertools.cycle(["Book", "a", "table", "at", "Nobu", "in", "London", "for", "上海", "and", "Berlin"])
    text = " ".join(itertools.islice(words, 5000))
    answer = each.pipe(text, aggregation_strategy="first", stride=6, batch_size=32)
    assert_same(answer["slots"], stock_answer(each, "slots", text, aggregation_strategy="first", stride=6))
    assert answer["slots"][-1]["end"] > len(text) - 60
    assert_same(answer["topic"], stock_answer(each, "topic", text))


def test_without_a_stride_a_long_text_is_cut(each):
    text = "Nobu in London " * 100
    answer = each.pipe(text)
    assert_same(answer["slots"], stock_answer(each, "slots", text))
    assert_same(answer["moods"], stock_answer(each, "moods", text))
    assert answer["slots"][-1]["end"] < 200


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": None},
        {"top_k": 1},
        {"top_k": 2},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none"},
        {"top_k": None, "function_to_apply": "softmax"},
    ],
)
def test_top_k_and_function_to_apply_mean_what_they_mean_there(bert, options):
    answers = bert.pipe(TEXTS, **options)
    for text, answer in zip(TEXTS, answers, strict=True):
        for task in ("topic", "moods", "score"):
            assert_same(answer[task], stock_answer(bert, task, text, **options))
        assert_same(answer["slots"], stock_answer(bert, "slots", text))


def test_ignore_labels_go_to_the_tasks_that_tag(bert):
    answer = bert.pipe(TEXTS[0], ignore_labels=["B-city", "I-city"], aggregation_strategy="simple")
    expected = stock_answer(bert, "slots", TEXTS[0], ignore_labels=["B-city", "I-city"], aggregation_strategy="simple")
    assert_same(answer["slots"], expected)


def test_task_kwargs_stand_above_the_keywords_for_all(bert):
    answer = bert.pipe(TEXTS[0], top_k=1, task_kwargs={"moods": {"top_k": None}, "slots": {"ignore_labels": []}})
    assert len(answer["topic"]) == 1
    assert_same(answer["moods"], stock_answer(bert, "moods", TEXTS[0], top_k=None))
    assert_same(answer["slots"], stock_answer(bert, "slots", TEXTS[0], ignore_labels=[]))


def test_keywords_given_when_it_was_built_are_the_defaults_of_its_calls(bert):
    pipe = MultiTaskPipeline.from_pretrained(
        bert.path,
        device="cpu",
        top_k=2,
        tasks=["moods", "slots"],
        task_kwargs={"slots": {"aggregation_strategy": "max"}},
    )
    answer = pipe(TEXTS[0])
    assert list(answer) == ["moods", "slots"]
    assert_same(answer["moods"], stock_answer(bert, "moods", TEXTS[0], top_k=2))
    assert_same(answer["slots"], stock_answer(bert, "slots", TEXTS[0], aggregation_strategy="max"))
    assert len(pipe(TEXTS[0], top_k=1)["moods"]) == 1
    assert len(pipe(TEXTS[0])["moods"]) == 2


def test_windows_of_two_strides_do_not_mix(tmp_path):
    kind = {"task_type": "token-classification", "label_list": ["O", "B-a", "I-a"], "tag_scheme": "BIO"}
    tasks = [build_task(TaskSpec(name=name, **kind)) for name in ("first", "second", "third")]
    model = tiny_model(tmp_path / "encoder", "bert", tasks)
    tokenizer = tiny_tokenizer("wordpiece", LENGTH)
    pipe = MultiTaskPipeline(model, tokenizer, device="cpu", aggregation_strategy="simple", ignore_labels=[])
    strides = {"first": {"stride": 3}, "second": {"stride": 9}, "third": {}}
    texts = ["Book a table in London " * 20, "Play", "Rate this book. " * 12]
    for text, answer in zip(texts, pipe(texts, task_kwargs=strides, batch_size=4), strict=True):
        for name, options in strides.items():
            stock = transformers.pipeline(
                "token-classification", model=pipe.model.task_model(name), tokenizer=tokenizer, device="cpu"
            )
            assert_same(answer[name], stock(text, aggregation_strategy="simple", ignore_labels=[], **options))


def counted_rows(pipe, monkeypatch) -> list[int]:
    rows: list[int] = []
    forward = pipe.model.forward

    def counting(*args, **kwargs):
        rows.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(pipe.model, "forward", counting)
    return rows


def test_a_text_goes_through_the_encoder_once_for_all_tasks(bert, monkeypatch):
    rows = counted_rows(bert.pipe, monkeypatch)
    bert.pipe(TEXTS, batch_size=4, aggregation_strategy="simple")
    assert rows == [4, 4, 4]


def test_a_first_window_serves_the_tasks_that_read_no_other(bert, monkeypatch):
    rows = counted_rows(bert.pipe, monkeypatch)
    bert.pipe("Nobu in London " * 20, aggregation_strategy="simple", stride=4, batch_size=64)
    windows = bert.pipe.tokenizer("Nobu in London " * 20, truncation=True, return_overflowing_tokens=True, stride=4)
    assert sum(rows) == len(windows["input_ids"]) > 1
