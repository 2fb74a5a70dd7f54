"""What a pipeline reads and refuses, from pairs to data sets, and how it is built and shared."""

import itertools
import json
import threading
from collections.abc import Iterator
from types import GeneratorType

import pytest
import torch
import transformers
from datasets import Dataset
from transformers.pipelines.pt_utils import KeyDataset, KeyPairDataset

from hf_mtl.errors import UserError
from hf_mtl.inference.pipeline import MultiTaskPipeline
from hf_mtl.tasks.spec import TaskSpec
from hf_mtl.tasks.types import build_task
from tests.piped import LENGTH, TEXTS, assert_same, named_tasks, saved, stock_answer
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("bert"), "bert", pairs=True)


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
