"""The pipeline: one pass for all tasks, and for each the stock pipeline's own answer."""

import itertools
import json
import math
import threading
from collections.abc import Iterator
from types import GeneratorType, SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoTokenizer
from transformers.pipelines.pt_utils import KeyDataset, KeyPairDataset

from hf_mtl.errors import UserError
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.types import build_task
from tests.tiny import TOKENIZERS, tiny_model, tiny_tasks, tiny_tokenizer

LENGTH = 24
TEXTS = [
    "Book a table at Nobu in London tonight, please.",
    "Play Imagine",
    "今天晚上在上海订一张四个人的桌子。",
    "The family 👩‍👩‍👧‍👦 is happy 🙂 and sad 🏳️‍🌈!",
    "مرحبا بالعالم، احجز طاولة في لندن",
    "Cafe\u0301 nai\u0308ve — co\u0302te\u0301 d'Azur",
    "[SEP] is text, and so is <s> or </s> and [MASK]<mask>",
    "",
    "   \t\n ",
    "Rate this\u00a0book\u200b five   out of six\r\n stars; it was a wonderful story. " * 3,
    "明天早上北京的天气怎么样？" * 6,
    "x",
]
STRATEGIES = ["none", "simple", "first", "average", "max"]


def named_tasks(*, pairs: bool = False):
    extra = [
        TaskSpec(name="score_of_pair", task_type="text-classification", problem_type="regression", text_pair=True),
        TaskSpec(
            name="same",
            task_type="text-classification",
            problem_type="single_label_classification",
            label_list=["no", "yes"],
            text_pair=True,
        ),
    ]
    return tiny_tasks() + ([build_task(spec) for spec in extra] if pairs else [])


def saved(folder, architecture: str, *, pairs: bool = False) -> SimpleNamespace:
    """A model on disk with its tokenizer, and the pipelines that read it: ours and one stock pipeline a task."""
    model = tiny_model(folder / "encoder", architecture, named_tasks(pairs=pairs))
    # Logits far apart, so that no label hangs on the last digit of a float.
    with torch.no_grad():
        for head in model.heads.values():
            for name, parameter in head.named_parameters():
                if parameter.dim() > 1 and "base" not in name:
                    parameter.mul_(20)
    path = str(folder / "model")
    model.save_pretrained(path)
    tiny_tokenizer(TOKENIZERS[architecture], LENGTH).save_pretrained(path)
    # As a run saves it: "[SEP]" in a text stays text.
    AutoTokenizer.from_pretrained(path, split_special_tokens=True).save_pretrained(path)
    pipe = MultiTaskPipeline.from_pretrained(path, device="cpu")
    stock = {
        task.name: transformers.pipeline(
            task.spec.task_type,
            model=pipe.model.task_model(task.name).eval(),
            tokenizer=AutoTokenizer.from_pretrained(path),
            device="cpu",
        )
        for task in named_tasks(pairs=pairs)
    }
    return SimpleNamespace(path=path, model=model, pipe=pipe, stock=stock)


@pytest.fixture(scope="module", params=["bert", "roberta", "modernbert", "xlm-roberta"])
def each(request, tmp_path_factory):
    return saved(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("bert"), "bert", pairs=True)


def stock_answer(made, task: str, text, **options) -> list:
    if task != "slots":
        options["truncation"] = True
    answer = made.stock[task](text, **options)
    return answer if isinstance(answer, list) else [answer]


def assert_same(answer, expected) -> None:
    assert len(answer) == len(expected), (answer, expected)
    for given, wanted in zip(answer, expected, strict=True):
        assert list(given) == list(wanted)
        for key, value in wanted.items():
            if key == "score":
                assert math.isclose(given[key], value, abs_tol=1e-5, rel_tol=1e-5), (key, given, wanted)
            else:
                assert given[key] == value, (key, given, wanted)


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


@pytest.mark.parametrize("second", ["Play music", "", "今天晚上在上海 " * 30])
def test_pairs_are_read_by_the_tasks_trained_on_pairs(bert, second):
    pair = {"text": "Book a table", "text_pair": second}
    answer = bert.pipe(pair)
    assert list(answer) == ["score_of_pair", "same"]
    for task in answer:
        assert_same(answer[task], stock_answer(bert, task, pair))


def test_texts_and_pairs_may_stand_in_one_list(bert):
    pair = {"text": "Book a table", "text_pair": "Play"}
    inputs = ["Play", pair, {"text": "Rate this"}, pair, {"text": "Rate this", "text_pair": None}]
    answers = bert.pipe(inputs, batch_size=3)
    assert [list(answer) for answer in answers] == [
        names := ["topic", "moods", "score", "slots"],
        pairs := ["score_of_pair", "same"],
        names,
        pairs,
        names,
    ]
    assert_same(answers[3]["same"], stock_answer(bert, "same", pair))
    assert_same(answers[2]["slots"], stock_answer(bert, "slots", "Rate this"))


def test_a_task_that_cannot_read_the_input_is_an_error_when_named(bert):
    with pytest.raises(UserError, match=r"inputs\[1\] is a single text.*: same; give"):
        bert.pipe([{"text": "a", "text_pair": "b"}, "a"], tasks=["same"])
    with pytest.raises(UserError, match="the input is a pair of texts.*: slots; give a str"):
        bert.pipe({"text": "a", "text_pair": "b"}, tasks=["same", "slots"])


def test_a_model_with_nothing_for_an_input_says_so(tmp_path):
    spec = TaskSpec(name="same", task_type="text-classification", label_list=["no", "yes"], text_pair=True)
    model = tiny_model(tmp_path / "encoder", "bert", [build_task(spec)])
    pipe = MultiTaskPipeline(model, tiny_tokenizer("wordpiece"), device="cpu")
    with pytest.raises(UserError, match="trained on pairs of texts: same"):
        pipe("a single text")


def test_the_order_is_that_of_the_inputs_whatever_their_length(bert):
    texts = [f"{'Rate ' * (number * 7 % 23)}{number}" for number in range(60)]
    for batch_size in (1, 2, 7, 100):
        for text, answer in zip(texts, bert.pipe(texts, batch_size=batch_size, top_k=None), strict=True):
            assert_same(answer["topic"], stock_answer(bert, "topic", text, top_k=None))


def test_one_text_gives_a_dict_and_a_list_a_list(bert):
    one = bert.pipe(TEXTS[0])
    assert isinstance(one, dict)
    assert isinstance(many := bert.pipe([TEXTS[0]]), list)
    assert_same(many[0]["slots"], one["slots"])
    assert bert.pipe((TEXTS[0],))[0].keys() == one.keys()
    assert bert.pipe([]) == []


def test_a_generator_is_read_as_its_answers_are_asked_for(bert):
    read: list[int] = []

    def texts() -> Iterator[str]:
        for number in itertools.count():
            read.append(number)
            yield f"Rate {number}"

    answers = bert.pipe(texts())
    assert isinstance(answers, GeneratorType)
    assert read == []
    first = next(answers)
    assert len(read) == 1, "without a batch size each answer comes before the next text is read"
    assert_same(first["topic"], stock_answer(bert, "topic", "Rate 0"))
    answers = bert.pipe(texts(), batch_size=2)
    del read[:]
    for _ in range(65):
        next(answers)
    assert len(read) == 128
    assert list(bert.pipe(iter([]))) == []


def test_data_sets_are_read_row_by_row(bert):
    rows = Dataset.from_dict({"text": TEXTS[:5], "other": TEXTS[5:10]})
    answers = bert.pipe(KeyDataset(rows, "text"), batch_size=2)
    assert isinstance(answers, GeneratorType)
    for text, answer in zip(TEXTS[:5], answers, strict=True):
        assert_same(answer["moods"], stock_answer(bert, "moods", text))
    pairs = list(bert.pipe(KeyPairDataset(rows, "text", "other")))
    assert [list(answer) for answer in pairs] == [["score_of_pair", "same"]] * 5
    assert len(list(bert.pipe(rows["text"]))) == 5


def test_very_long_texts_do_not_wait_for_a_whole_chunk(bert):
    read = []

    def texts() -> Iterator[str]:
        for _ in range(10):
            read.append(1)
            yield "London " * 20_000

    next(bert.pipe(texts(), tasks=["topic"], batch_size=8))
    assert len(read) == 2


def test_unknown_names_are_refused_with_those_there_are(bert):
    with pytest.raises(UserError, match="task 'slot' is not known; did you mean slots.*topic, moods"):
        bert.pipe("a", tasks=["slot"])
    with pytest.raises(UserError, match="keyword 'agregation_strategy'.*did you mean aggregation_strategy"):
        bert.pipe("a", agregation_strategy="simple")
    with pytest.raises(UserError, match="task_kwargs: keyword of task topic 'stride'.*top_k, function_to_apply"):
        bert.pipe("a", task_kwargs={"topic": {"stride": 3}})
    with pytest.raises(UserError, match="task_kwargs: task 'topics'"):
        bert.pipe("a", task_kwargs={"topics": {}})
    with pytest.raises(UserError, match="task slots cannot take aggregation_strategy='simpel'"):
        bert.pipe("a", aggregation_strategy="simpel")
    with pytest.raises(UserError, match="task_kwargs is"):
        bert.pipe("a", task_kwargs={"topic": 3})
    with pytest.raises(UserError, match="tasks is empty"):
        bert.pipe("a", tasks=[])
    with pytest.raises(UserError, match="keyword 'max_length'"):
        MultiTaskPipeline.from_pretrained(bert.path, max_length=3)


@pytest.mark.parametrize("stride", [LENGTH, LENGTH - 1, LENGTH - 2])
def test_a_stride_that_never_ends_is_refused(bert, stride):
    with pytest.raises(UserError, match="stride"):
        bert.pipe("Nobu in London " * 30, aggregation_strategy="simple", stride=stride)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (3, "int"),
        (None, "NoneType"),
        (["a", "b"], "list"),
        ({"txt": "a"}, "keys txt"),
        (b"a", "bytes"),
        ({"text": 3}, "keys text"),
        ("\ud800", "no valid Unicode"),
    ],
)
def test_an_input_that_is_no_text_is_named(bert, value, found):
    with pytest.raises(UserError, match=rf"inputs\[1\].*{found}"):
        bert.pipe(["a", value])


@pytest.mark.parametrize("value", [3, None, b"text"])
def test_something_that_gives_no_texts_is_refused(bert, value):
    with pytest.raises(UserError, match="give a text, a pair, or a series"):
        bert.pipe(value)


@pytest.mark.parametrize("batch_size", [0, -1, "many"])
def test_a_batch_size_is_a_whole_number(bert, batch_size):
    with pytest.raises(UserError, match="batch_size"):
        bert.pipe(["a"], batch_size=batch_size)


def test_tags_need_a_tokenizer_with_offsets_and_text_tasks_do_not(bert):
    class Slow:
        is_fast = False

        def __init__(self, fast):
            self.fast = fast

        def __call__(self, *args, **kwargs):
            return transformers.BatchEncoding(dict(self.fast(*args, **kwargs)))

        def __getattr__(self, name):
            return getattr(self.fast, name)

    pipe = MultiTaskPipeline(bert.model, Slow(bert.pipe.tokenizer), device="cpu", tasks=["topic"])
    assert_same(pipe(TEXTS[0])["topic"], stock_answer(bert, "topic", TEXTS[0]))
    with pytest.raises(UserError, match="task slots needs a fast tokenizer"):
        pipe(TEXTS[0], tasks=["slots"])


def test_transformers_builds_it_by_name(bert):
    pipe = transformers.pipeline("multi-task", model=bert.path, device="cpu")
    assert isinstance(pipe, MultiTaskPipeline)
    assert_same(pipe(TEXTS[0])["slots"], stock_answer(bert, "slots", TEXTS[0]))


def test_a_saved_pipeline_needs_no_code_from_its_folder(bert, tmp_path):
    bert.pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    again = transformers.pipeline("multi-task", model=str(tmp_path), device="cpu")
    assert_same(again(TEXTS[0])["slots"], bert.pipe(TEXTS[0])["slots"])


def test_another_model_is_refused(bert, tmp_path):
    bert.pipe.model.task_model("topic").save_pretrained(tmp_path)
    bert.pipe.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a multi-task model"):
        MultiTaskPipeline.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="this is a BertModel"):
        transformers.pipeline("multi-task", model=str(tmp_path))
    bert.model.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="its tokenizer cannot be loaded"):
        MultiTaskPipeline.from_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="no such folder"):
        MultiTaskPipeline.from_pretrained(tmp_path / "nowhere")


def test_threads_may_share_a_pipeline(bert):
    texts = [f"Rate {number} {'London ' * (number % 40)}" for number in range(0, 80, 3)]
    options = [{"aggregation_strategy": "simple", "stride": stride} for stride in (None, 3, 7)]
    expected = [bert.pipe(texts, **option) for option in options]
    found: dict[int, list] = {}

    def work(number: int) -> None:
        found[number] = bert.pipe(texts, batch_size=3 + number, **options[number % 3])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        for answer, wanted in zip(found[number], expected[number % 3], strict=True):
            for task, value in wanted.items():
                assert_same(answer[task], value)


def test_a_model_in_training_mode_answers_as_in_evaluation(bert):
    model = tiny_model(bert.path + "-encoder", "bert", named_tasks()).train()
    MultiTaskPipeline(model, bert.pipe.tokenizer, device="cpu")
    assert not any(module.training for module in model.modules())


def test_half_precision_answers_too(bert):
    pipe = MultiTaskPipeline.from_pretrained(bert.path, device="cpu", dtype=torch.bfloat16)
    answer = pipe(TEXTS[0], aggregation_strategy="simple")
    assert pipe.model.dtype == torch.bfloat16
    assert 0 <= answer["topic"][0]["score"] <= 1
    assert set(answer) == {"topic", "moods", "score", "slots"}
