"""The keys a run file may have, section by section: the reference of their names, defaults and meaning."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hf_mtl.config_defaults import resolved_dataset, resolved_task
from hf_mtl.config_lora import LoraSection
from hf_mtl.config_section import Count, NotNegative, Positive, Section, Share, Text
from hf_mtl.config_sharing import SharingSection

Label = str | int | bool


class CsvConfig(Section):
    """How csv files are written."""

    sep: str | None = None
    """The character between cells (a tab is "\\t" in YAML); null finds it: a tab in a .tsv, else by the first line."""
    encoding: str = "utf-8"
    """The files' encoding, by Python's name for it."""
    header: bool = True
    """Whether the first line holds the names of the columns."""
    names: Annotated[list[Text], Field(min_length=1)] | None = None
    """The names of the columns, in place of the header's; without header and names they are called 0, 1, …"""

    @field_validator("sep")
    @classmethod
    def _one_character(cls, sep: str | None) -> str | None:
        if sep is not None and (len(sep) != 1 or sep in '"\r\n'):
            found = repr(sep).replace("\\\\", "\\")
            raise ValueError(f'{found} cannot separate cells; use one character (a tab is "\\t", in double quotes)')
        return sep

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except (LookupError, ValueError):
            raise ValueError(f"{encoding!r} is not an encoding; use one such as utf-8 or cp1252") from None
        return encoding

    @field_validator("names")
    @classmethod
    def _names_once(cls, names: list[str] | None) -> list[str] | None:
        if names and len(set(names)) < len(names):
            raise ValueError("holds a name twice")
        return names


class DatasetConfig(Section):
    """Where rows come from; one data set may feed several tasks."""

    path: Text | None = None
    """A data set of the Hub (or a folder of one), or json, csv, parquet, text or conll; null for rows in memory."""
    name: Text | None = None
    """The configuration of a Hub data set."""
    revision: Text | None = None
    """The branch, tag or commit of a Hub data set."""
    data_files: dict[Text, Text | Annotated[list[Text], Field(min_length=1)]] | None = None
    """Files by split: a file, a list of files or a pattern each, relative to the run file; without splits, of train."""
    splits: dict[Literal["train", "validation", "test"], Text | Share] | None = None
    """Where train, validation and test come from: a name in the source, or a share that is cut from train."""
    text_column: Text | None = None
    """The column of the text."""
    text_pair_column: Text | None = None
    """The column of the second text, where rows are pairs."""
    tokens_column: Text | None = None
    """The column of the text's words, which token-classification needs."""
    token_separator: str = " "
    """What stands between words where there is no text_column; "" for Chinese."""
    columns: Annotated[list[Text], Field(min_length=1)] | None = None
    """The names of a CoNLL file's columns; else the first is `tokens` and the last `labels`."""
    csv: CsvConfig | None = None
    """How csv files are written."""
    drop_duplicates: bool = False
    """Whether rows that repeat text and labels of a row before them are left out."""
    drop_conflicts: bool = False
    """Whether all rows of a text are left out that has different labels."""
    drop_leaks: bool = False
    """Whether rows of train are left out whose text stands in another split."""
    min_characters: Count | None = None
    """The least characters that a row's text may have, or it is left out; null for any number."""
    max_characters: Count | None = None
    """The most characters that a row's text may have, or it is left out; null for any number."""

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, raw: Any) -> Any:
        return resolved_dataset(raw)


class TaskConfig(Section):
    """One head: its labels, its part in the loss, its metrics."""

    task_type: Literal["text-classification", "token-classification"]
    """text-classification or token-classification, as transformers' pipelines are called."""
    dataset: Text
    """The data set, by its name above."""
    label_column: Text | None = None
    """The column of the labels."""
    spans_column: Text | None = None
    """In place of label_column, for token-classification: the column of spans, [{start, end, label}], in the text."""
    label_list: Annotated[list[Label], Field(min_length=1)] | Text | None = None
    """The labels in their order, or a JSON file of them; else the data set's own, else those of train, sorted."""
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = None
    """For text-classification, as in transformers; found if not given, but regression must be."""
    loss_weight: Positive = 1.0
    """The task's factor in the loss."""
    score_weight: NotNegative = 1.0
    """The task's weight in the score by which the best model is chosen."""
    metrics: Annotated[list[Text], Field(min_length=1)] | None = None
    """What is measured, the score first; a name with a slash is a metric of the Hub; null for the usual ones."""
    class_weight: Literal["balanced"] | Annotated[dict[Label, Positive], Field(min_length=1)] | None = None
    """Factors of the labels' losses: label: factor (1 where not given), or balanced, by their rarity in train."""
    label_smoothing_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of each target that is spread over all labels."""
    tag_scheme: Literal["IOB1", "BIO", "BIOES", "BILOU", "none"] | None = None
    """How tags mark spans; none for tags that stand alone, such as parts of speech; found if not given."""
    threshold: Share | Literal["tune"] | None = None
    """The probability from which a label of a multi-label task holds (0.5 if null), or tune on validation."""
    normalise_labels: bool = False
    """Whether labels that differ in spelling alone are one, in its most frequent spelling."""
    label_separator: Text | None = None
    """What stands between the labels of a multi-label cell that is text."""

    @property
    def column(self) -> str:
        """The column that the task reads."""
        return str(self.label_column or self.spans_column)

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, raw: Any) -> Any:
        return resolved_task(raw)


class SamplingConfig(Section):
    """Which rows make a step."""

    strategy: Literal["proportional", "round_robin", "temperature", "weights"] = "proportional"
    """proportional: every row once an epoch; round_robin: data sets take turns; temperature and weights: see there."""
    temperature: Positive | None = None
    """Draws a data set of n rows in proportion to n^(1/temperature)."""
    weights: Annotated[dict[str, Positive], Field(min_length=1)] | None = None
    """Draws each data set in proportion to its weight."""
    batch: Literal["mixed", "single_task"] = "mixed"
    """mixed: a step has rows of all tasks; single_task: of one."""
    pool_size: Count = 64
    """How many steps are drawn together and sorted by length to save padding; 1 for none."""


class LayersConfig(Section):
    """Some of the encoder's layers."""

    layers: str
    """The first and the last one, counted from 0 at the bottom, such as 0-3; or one alone."""

    @field_validator("layers")
    @classmethod
    def _range(cls, layers: str) -> str:
        numbers = layers.split("-")
        if not (len(numbers) <= 2 and all(number.isdecimal() for number in numbers)):
            raise ValueError(f"{layers!r} names no layers; write the first and the last, such as 0-3")
        if int(numbers[0]) > int(numbers[-1]):
            raise ValueError(f"{layers!r} ends before it begins; write the lower number first")
        return layers

    @property
    def first(self) -> int:
        return int(self.layers.split("-")[0])

    @property
    def last(self) -> int:
        return int(self.layers.split("-")[-1])


class TrainingConfig(Section):
    """transformers' TrainingArguments, those that are honoured, with the same meaning."""

    output_dir: Text
    """The folder that the run fills, relative to the working directory."""
    learning_rate: Positive = 5e-5
    """The highest learning rate."""
    head_learning_rate: Positive | None = None
    """The heads' own highest learning rate; null for learning_rate."""
    layerwise_lr_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Each layer learns at the rate of the one above it times this; null for one rate."""
    freeze: Literal["embeddings", "encoder"] | LayersConfig | None = None
    """What of the encoder is not trained: embeddings, encoder, or {layers: 0-3}."""
    num_train_epochs: Positive = 3.0
    """How many epochs to train; a fraction ends within an epoch."""
    max_steps: Annotated[int, Field(ge=-1)] = -1
    """How many optimizer steps to train, in place of num_train_epochs; -1 to go by epochs."""
    per_device_train_batch_size: Count = 8
    """Sequences a process takes at a time in training."""
    per_device_eval_batch_size: Count = 8
    """Sequences a process takes at a time in evaluation."""
    gradient_accumulation_steps: Count = 1
    """How many such batches make an optimizer step."""
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 0
    """Steps in which the learning rate rises from 0: a number of them, or a share of all (below 1)."""
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = "linear"
    """The schedule of the learning rate: transformers' schedules that need no arguments and no metric."""
    weight_decay: NotNegative = 0.0
    """Weight decay, on all but biases and norms."""
    max_grad_norm: NotNegative = 1.0
    """The norm to which a larger gradient is cut; 0 for none."""
    optim: Literal["adamw_torch_fused", "adamw_torch", "sgd"] = "adamw_torch_fused"
    """The optimizer."""
    bf16: bool = False
    """Whether to compute in bfloat16 (weights stay in float32)."""
    fp16: bool = False
    """Whether to compute in float16 with a scaled loss (weights stay in float32); needs a GPU."""
    gradient_checkpointing: bool = False
    """Whether the backward computes the layers' states again, to save memory."""
    torch_compile: bool = False
    """Whether torch compiles the encoder."""
    eval_strategy: Literal["no", "steps", "epoch"] = "epoch"
    """When validation is measured: after every epoch, every eval_steps steps, or not at all."""
    eval_steps: Count | None = None
    """Steps between evaluations, with eval_strategy steps."""
    save_strategy: Literal["no", "steps", "epoch"] = "epoch"
    """When a checkpoint is written: after every epoch, every save_steps steps, or only when a run is stopped."""
    save_steps: Count | None = None
    """Steps between checkpoints, with save_strategy steps."""
    save_total_limit: Count | None = None
    """How many checkpoints are kept, the newest, and beside them the one of the best score; null keeps all."""
    load_best_model_at_end: bool = True
    """Whether the weights with the best score on validation are kept, or the last."""
    early_stopping: Literal["overall", "per_task"] | None = None
    """Ends training when the score gains no more, or pauses each task for which its own metric does not."""
    early_stopping_patience: Count = 1
    """Evaluations in a row without a gain before that."""
    early_stopping_threshold: NotNegative = 0.0
    """By how much more a metric must be above the best to count as a gain."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss is not a finite number ends the run, or is left out."""
    logging_steps: Count = 500
    """Steps between lines of history.jsonl."""
    report_to: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = []
    """Trackers that are told the losses and metrics too."""
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that collate batches beside the training process."""
    push_to_hub: bool = False
    """Whether the model is published on the Hub."""
    hub_model_id: Text | None = None
    """The repository, user/name or a name of one's own; null for one called as output_dir's last folder."""
    hub_strategy: Literal["end", "every_save", "checkpoint"] = "every_save"
    """Published at the end alone; with every save too; or with the newest checkpoint as well, in last-checkpoint/."""
    hub_private_repo: bool | None = None
    """Whether the repository is made a private one; null for the account's usual way."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """The seed of heads, samples, splits and dropout."""


class RunConfig(Section):
    """A whole run."""

    encoder: Text
    """A Hub id, a folder, or package://PACKAGE/FOLDER for a folder in an installed package."""
    heads: Literal["new", "keep"] = "new"
    """Of an encoder that is a multi-task model: whether tasks of the same names go on from its heads."""
    encoder_config: dict[str, Any] = {}
    """Overrides of the encoder's own config, such as {hidden_dropout_prob: 0.0}."""
    max_length: Annotated[int, Field(ge=3)] = 256
    """Pieces in a sequence, special ones included."""
    datasets: Annotated[dict[Text, DatasetConfig], Field(min_length=1)]
    """Where rows come from, by name."""
    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    """What is learnt, by name."""
    sampling: SamplingConfig = SamplingConfig()
    """Which rows make a step."""
    lora: LoraSection | None = None
    """Low-rank adapters in the encoder; null for none."""
    sharing: SharingSection = SharingSection()
    """What the tasks share of the encoder."""
    training: TrainingConfig
    """How to train, and where to write."""
    base_dir: Text | None = None
    """The folder where relative data paths start: the run file's if not given."""
