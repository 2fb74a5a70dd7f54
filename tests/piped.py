"""A model on disk, the pipeline that reads it, and a stock pipeline for each of its tasks."""

import math
from types import SimpleNamespace

import torch
import transformers
from transformers import AutoTokenizer

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
