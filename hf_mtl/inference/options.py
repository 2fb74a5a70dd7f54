"""What a call of the pipeline asks of each task: keywords → the arguments of the task's stock pipeline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from transformers import Pipeline

from hf_mtl.errors import UserError
from hf_mtl.inference.texts import Text
from hf_mtl.tasks.task import Task

CALL_OPTIONS = ("tasks", "task_kwargs", "batch_size")


@dataclass(frozen=True, eq=False)
class TaskCall:
    """One task in one call: how far it reads a long text, and how its logits become an answer.

    `stride` is the overlap of the windows in which a long text is read, None if only its first window is.
    """

    name: str
    task: Task
    stock: Pipeline
    stride: int | None
    postprocess: Mapping[str, Any]

    def answer(self, windows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The stock pipeline's answer from its model outputs, one a window; a single dict becomes a list of one."""
        outputs = windows if self.task.reads_windows else windows[0]
        answer = self.stock.postprocess(outputs, **self.postprocess)
        return answer if isinstance(answer, list) else [answer]


@dataclass(frozen=True)
class Call:
    """The tasks of one call in the order of their answers; `named` if the caller chose them."""

    tasks: Sequence[TaskCall]
    named: bool

    def tasks_of(self, text: Text) -> list[TaskCall]:
        """The tasks that read this kind of text: those trained on pairs read pairs, the others single texts.

        Raises:
            UserError: if a task that was asked for by name cannot read it, or if no task can.
        """
        pair = text.pair is not None
        able = [call for call in self.tasks if call.task.spec.text_pair == pair]
        if len(able) < len(self.tasks) and (self.named or not able):
            unable = ", ".join(call.name for call in self.tasks if call not in able)
            if pair:
                raise UserError(f"{text.place} is a pair of texts, and tasks read a single text: {unable}; give a str")
            raise UserError(
                f"{text.place} is a single text, and tasks were trained on pairs of texts: {unable}; "
                "give {'text': ..., 'text_pair': ...}"
            )
        return able


def resolve_call(
    tasks: Mapping[str, Task], stock: Mapping[str, Pipeline], given: Mapping[str, Any], asked: Mapping[str, Any]
) -> Call:
    """The tasks of a call and their options.

    An option of one task stands above the same option for all tasks, and one of the call above one given when the
    pipeline was built.

    Args:
        tasks: the model's tasks.
        stock: their stock pipelines.
        given: keywords given when the pipeline was built.
        asked: keywords of the call.

    Raises:
        UserError: if a task or keyword is not known, or a task's stock pipeline refuses its options.
    """
    known = sorted({option for task in tasks.values() for option in task.pipeline_options})
    own: dict[str, dict[str, Any]] = {name: {} for name in tasks}
    for keywords in (given, asked):
        for option in keywords:
            _check("keyword", option, (*CALL_OPTIONS, *known))
        for name, options in _task_kwargs(keywords).items():
            _check("task_kwargs: task", name, tasks)
            for option in options:
                _check(f"task_kwargs: keyword of task {name}", option, tasks[name].pipeline_options)
            own[name].update(options)
    common = {**given, **asked}
    names = common.get("tasks")
    chosen = tasks if names is None else [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in chosen:
        _check("task", name, tasks)
    if not chosen:
        raise UserError(f"tasks is empty; name some of {', '.join(tasks)}, or leave it out for all")
    calls = []
    for name in chosen:
        options = {option: common[option] for option in tasks[name].pipeline_options if option in common}
        calls.append(_task_call(name, tasks[name], stock[name], {**options, **own[name]}))
    return Call(calls, named=names is not None)


def _task_kwargs(keywords: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    given = keywords.get("task_kwargs") or {}
    if not isinstance(given, Mapping) or not all(isinstance(options, Mapping) for options in given.values()):
        raise UserError(f"task_kwargs is {given!r}; give a dict: task to a dict of that task's keywords")
    return given


def _task_call(name: str, task: Task, stock: Pipeline, options: Mapping[str, Any]) -> TaskCall:
    if task.reads_windows and not stock.tokenizer.is_fast:
        raise UserError(
            f"task {name} needs a fast tokenizer, which knows where a piece stands in the text; "
            f"{type(stock.tokenizer).__name__} is none: ask for other tasks by name"
        )
    stride = options.get("stride")
    limit = stock.tokenizer.model_max_length - stock.tokenizer.num_special_tokens_to_add()
    if stride is not None and not 0 <= stride < limit:
        # With more, no window would hold a piece that the one before it does not, and the tokenizer never ends.
        raise UserError(f"task {name}: stride is {stride}; give a number from 0 to {limit - 1}")
    try:
        _, _, postprocess = stock._sanitize_parameters(**options)
    except (KeyError, ValueError, TypeError) as error:
        shown = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise UserError(f"task {name} cannot take {shown}: {error}") from error
    return TaskCall(name, task, stock, stride, postprocess)


def _check(what: str, name: Any, allowed: Any) -> None:
    if name not in allowed:
        near = get_close_matches(str(name), list(allowed), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{what} {name!r} is not known; {hint}there are {', '.join(allowed)}")
