"""One pass of the encoder for all tasks, and the answers that the stock pipelines give one by one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, Pipeline, PreTrainedTokenizerBase

from hf_mtl.errors import UserError
from hf_mtl.hub_errors import HubError, hub_reason
from hf_mtl.inference.options import Call, resolve_call
from hf_mtl.inference.texts import Text, chunks, read_text
from hf_mtl.inference.windows import Window, batches, collate, read_windows, share_out
from hf_mtl.modeling.model import MultiTaskModel

DEFAULT_BATCH_SIZE = 8
# So many batches are read together and sorted by length, which leaves little padding.
CHUNK_BATCHES = 32
SOURCE_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
LOADING_OPTIONS = ("dtype", "attn_implementation")


class MultiTaskPipeline(Pipeline):
    """The answers of all tasks to a text, from one pass of the encoder.

    For every task the answer is what the stock `transformers` pipeline of its type gives for that one text, called
    alone on `model.task_model(task)` (text classification with `truncation=True`), always as a list. An instance has no
    state that a call changes: threads may share it.

    Args:
        model: the model; it is put into evaluation mode.
        tokenizer: its tokenizer, as saved with it (tasks that tag words need a fast one).
        kwargs: those of `transformers.Pipeline` (`device`, `batch_size`, …) and of a call, as its defaults.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = True

    def __init__(self, model: MultiTaskModel, tokenizer: PreTrainedTokenizerBase, **kwargs: Any) -> None:
        if not isinstance(model, MultiTaskModel):
            raise UserError(f"the pipeline needs a MultiTaskModel, and this is a {type(model).__name__}")
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)
        self.model.eval()
        self._stock = {
            name: task.pipeline_class(model=model.heads[name], tokenizer=tokenizer, device=self.device)
            for name, task in model.tasks.items()
        }
        self.resolve({})  # keywords that no task knows are refused now, not at the first call

    @classmethod
    def from_pretrained(cls, model: str | PathLike[str], **kwargs: Any) -> Self:
        """The pipeline of a saved model.

        Args:
            model: a folder, or the id of a repository on the Hub.
            kwargs: where and how to load it, as in transformers (`revision`, `token`, `cache_dir`, `local_files_only`,
                `force_download`, `dtype`, `attn_implementation`), and those of the class.

        Raises:
            UserError: if it is no saved multi-task model.
        """
        source = {key: kwargs.pop(key) for key in SOURCE_OPTIONS if key in kwargs}
        loading = {key: kwargs.pop(key) for key in LOADING_OPTIONS if key in kwargs}
        loaded = MultiTaskModel.from_pretrained(model, **source, **loading)
        return cls(loaded, saved_tokenizer(model, **source), **kwargs)

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **options: Any) -> Any:
        """Answer one text or many.

        Args:
            inputs: a text (a str), a pair of texts (`{"text": ..., "text_pair": ...}`), a list of these, or anything
                that gives these one by one (a generator, a `KeyDataset`).
            batch_size: sequences per pass of the encoder. It does not change the answers. From 2 on, 32 batches are
                read together and sorted by length (fewer of long texts). The default is 8, and 1 for a series whose
                length is not known, so that each answer comes before the next text is read.
            options: `tasks`, the names of the tasks to answer (default: all that read such inputs: tasks trained on
                pairs read pairs, the others single texts); the stock pipelines' `top_k`, `function_to_apply`,
                `aggregation_strategy`, `stride`, `ignore_labels`, each for the tasks that know it; and
                `task_kwargs`, a dict task → these, which stand above those for all tasks.

        Returns:
            `{task: answer}` for one input, a list of these for a list, and a generator of these for anything else,
            which reads its input as it goes; in the order of the inputs.

        Raises:
            UserError: if an input cannot be read, a keyword or task is not known, or a task that was asked for by name
                cannot read the input.
        """
        call = self.resolve(options)
        size = batch_size if batch_size is not None else self._batch_size
        if size is None:
            size = DEFAULT_BATCH_SIZE if hasattr(inputs, "__len__") else 1
        if not isinstance(size, int) or size < 1:
            raise UserError(f"batch_size is {size!r}; give a whole number from 1 on")
        if isinstance(inputs, (str, Mapping)):
            return self._answers([read_text(inputs, "the input")], call, size)[0]
        if isinstance(inputs, bytes) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")):
            raise UserError(f"the input is a {type(inputs).__name__}; give a text, a pair, or a series of them")
        answers = self._stream(inputs, call, size)
        return list(answers) if isinstance(inputs, (list, tuple)) else answers

    def resolve(self, options: Mapping[str, Any]) -> Call:
        """The tasks of a call with these keywords, and how each reads and answers.

        Raises:
            UserError: if a keyword or task is not known.
        """
        return resolve_call(self.model.tasks, self._stock, self._postprocess_params, options)

    def _stream(self, inputs: Iterable[Any], call: Call, batch_size: int) -> Iterator[dict[str, Any]]:
        for chunk in chunks(inputs, 1 if batch_size == 1 else batch_size * CHUNK_BATCHES):
            yield from self._answers(chunk, call, batch_size)

    def _answers(self, texts: Sequence[Text], call: Call, batch_size: int) -> list[dict[str, Any]]:
        """The answers to texts that are encoded and sorted together."""
        found = self.preprocess(texts, call)
        for batch in batches((window for windows in found for window in windows), batch_size):
            share_out(batch, self.forward(self._model_inputs(batch, call)))
        return [self.postprocess(windows) for windows in found]

    def _model_inputs(self, batch: Sequence[Window], call: Call) -> dict[str, Any]:
        """The model's arguments: all rows feed all tasks where they may, else each task's rows are listed."""
        rows = {
            task.name: torch.tensor([row for row, window in enumerate(batch) if task in window.readers])
            for task in call.tasks
        }
        tasks = [name for name, indices in rows.items() if len(indices)]
        every = all(len(rows[name]) == len(batch) for name in tasks)
        inputs = collate(batch, self.tokenizer.pad_token_id or 0)
        return {**inputs, "rows": None if every else {name: rows[name] for name in tasks}, "tasks": tasks}

    def preprocess(self, input_: Sequence[Text], call: Call) -> list[list[Window]]:
        """The windows of each text."""
        return read_windows(self.tokenizer, input_, call)

    def _forward(self, input_tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        # float32: numpy, with which the stock pipelines go on, knows no bfloat16.
        return {name: logits.float() for name, logits in self.model(**input_tensors).logits.items()}

    def get_inference_context(self) -> Any:
        return torch.inference_mode

    def postprocess(self, model_outputs: Sequence[Window]) -> dict[str, Any]:
        """Task → answer for one text, from its windows."""
        return {
            reader.name: reader.answer([w.output(reader.name) for w in model_outputs if reader in w.readers])
            for reader in model_outputs[0].readers
        }

    def _sanitize_parameters(self, **pipeline_parameters: Any) -> tuple[dict, dict, dict]:
        # Called once, by the base class's constructor: the keywords are kept as the defaults of every call.
        return {}, {}, pipeline_parameters


def saved_tokenizer(model: str | PathLike[str], **source: Any) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with a model.

    Raises:
        UserError: if there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False, **source)
    except (OSError, HubError, ValueError) as error:
        why = hub_reason(error) or error
        raise UserError(f"model {model}: its tokenizer cannot be loaded; save it with the model ({why})") from error
