"""The training run: from a run file to a trained, measured and saved model."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from hf_mtl.batching.collator import Collator
from hf_mtl.config import load_config
from hf_mtl.config_keys import RunConfig
from hf_mtl.data.left_out import left_out
from hf_mtl.data.preparation import Prepared, prepare
from hf_mtl.data.report import remarks
from hf_mtl.errors import FinishedError, UserError
from hf_mtl.evaluation.score import score
from hf_mtl.evaluation.splits import evaluate_split, metric_choices, tuned_thresholds
from hf_mtl.hub.record import data_record, run_record
from hf_mtl.modeling.base import fingerprint
from hf_mtl.modeling.costs import cost_lines
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.checkpoint import Checkpoint
from hf_mtl.training.course import Course
from hf_mtl.training.early_stopping import EarlyStopping
from hf_mtl.training.history import History, StepLog
from hf_mtl.training.identity import identity, refuse_another
from hf_mtl.training.launch import make_accelerator, on_first_process, refuse_unequal
from hf_mtl.training.loop import TrainingLoop, Validation
from hf_mtl.training.optimization import freeze, make_optimizer, make_schedule
from hf_mtl.training.origin import Origin, origin
from hf_mtl.training.output import RunFolder, write_folder
from hf_mtl.training.position import Position
from hf_mtl.training.progress import RunConsole, TrainingProgress, results_table
from hf_mtl.training.publishing import Publisher, finished
from hf_mtl.training.rehearsal import fitting_size, rehearse
from hf_mtl.training.state import Keeper, RunState
from hf_mtl.training.stopping import StopSignals, to_stderr
from hf_mtl.training.tensors import load_model, model_tensors
from hf_mtl.training.trackers import Trackers


class MultiTaskTrainer:
    """Trains one model on all tasks of a run.

    Usually made by `from_config`. Attributes that stay after `train`: `model` (with the best weights, where
    `load_best_model_at_end` is on), `tokenizer`, `metrics` (as in `metrics.json`), `history`.

    Args:
        config: the run.
        model: the model to train.
        tokenizer: its tokenizer.
        prepared: tasks and encoded sequences.
        folder: where the run is written.
        accelerator: the run's processes; made for the run by default.
        console: where progress is shown.
        start: where the model comes from and goes to; by default it is saved as it is.
    """

    def __init__(
        self,
        config: RunConfig,
        model: MultiTaskModel,
        tokenizer: PreTrainedTokenizerBase,
        prepared: Prepared,
        folder: RunFolder,
        accelerator: Accelerator | None = None,
        console: Console | None = None,
        start: Origin | None = None,
    ) -> None:
        self.config, self.training = config, config.training
        self.model, self.tokenizer = model, tokenizer
        self.prepared, self.folder = prepared, folder
        self.start = start or Origin(config, tokenizer)
        self.accelerator = accelerator or make_accelerator(config)
        self.console = console or RunConsole(quiet=not self.accelerator.is_main_process)
        self.collator = Collator.for_tasks(tokenizer, model.tasks, self.accelerator.device)
        self.course = Course(config, prepared.split("train"), self.collator, self.accelerator)
        self.loss_weights = {task: config.tasks[task].loss_weight for task in model.tasks}
        self.choices = metric_choices(model.tasks, config.tasks)
        say = partial(self.console.print, markup=False, highlight=False, soft_wrap=True)
        self.publisher = Publisher(self.training, self.accelerator, say)
        self._started = False
        self.stamp: dict[str, Any] = {}
        self.data_record: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []

    @classmethod
    def from_config(
        cls,
        config: RunConfig | Mapping[str, Any],
        *,
        datasets: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        onto: str | None = None,
        private_layers: int = 0,
        console: Console | None = None,
    ) -> "MultiTaskTrainer":
        """Reads rows, settles the labels and builds the model.

        Args:
            config: from `load_config`, or a dict of the same keys.
            datasets: rows in memory by data set: a `DatasetDict`, or split → `Dataset`.
            overwrite: whether a run in `output_dir` is replaced.
            resume: whether `train` goes on from the newest checkpoint in `output_dir`, if there is one.
            onto: a saved model that the tasks are put on: it stays as it is, and only their heads and an adapter each
                are trained. What is saved is the whole model.
            private_layers: on such a model, how many copies of its encoder's top layers are trained for the tasks, in
                place of adapters.
            console: where progress is shown; the standard output by default.

        Raises:
            FinishedError: if the run to resume is finished.
            UserError: whatever is wrong with the run file, the rows, the encoder or `output_dir`.
        """
        config = config if isinstance(config, RunConfig) else load_config(config)
        accelerator = make_accelerator(config)
        console = console or RunConsole(quiet=not accelerator.is_main_process)
        training = config.training
        here = partial(RunFolder, training.output_dir, training.save_total_limit, overwrite=overwrite, resume=resume)
        try:
            folder = on_first_process(accelerator, here) or here()
        except FinishedError as error:
            raise finished(training, error) from None
        checkpoint = folder.newest()
        start = origin(config, onto, private_layers, checkpoint.state["identity"]["commit"] if checkpoint else None)
        config = start.config
        say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
        read = partial(prepare, config, start.tokenizer, memory=datasets, progress=say)
        # The first process fills the cache; the others then map what lies there.
        prepared = on_first_process(accelerator, read) or read()
        for dataset, splits in prepared.sequences.items():
            for line in left_out(dataset, splits):
                say(line)
        for line in remarks(config, prepared):
            say(line)
        tasks = list(prepared.tasks.values())
        if why := start.why_all_shared(tasks):
            say(why)
        set_seed(training.seed)
        model = start.model(tasks)
        return cls(config, model, start.tokenizer, prepared, folder, accelerator, console, start)

    def train(self) -> dict[str, Any]:
        """Trains, keeps the best weights, measures test once, saves; gives what `metrics.json` holds.

        Raises:
            StoppedError: if the run was asked to stop, or ran out of memory; it can be resumed.
            UserError: if the loss is no longer a number, or the run cannot be written.
        """
        if self._started:
            raise UserError(
                "this trainer has trained already; make a new one with from_config(…, resume=True) to go on, or with "
                "overwrite=True to start anew"
            )
        self._started = True
        on_first_process(self.accelerator, self.folder.open)
        try:
            self.publisher.open()
            note = partial(data_record, self.config, self.prepared.sequences)
            self.data_record = on_first_process(self.accelerator, note) or {}
            self._finish(self._run())
        finally:
            self.folder.close()
        self.console.print(results_table(self.metrics))
        for line in cost_lines(self.model.body, self.model.heads.values()):
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.console.print(f"saved in {self.folder.path}", markup=False, highlight=False)
        self.publisher.finish(self.folder.path)
        return self.metrics

    def push_to_hub(self, commit_message: str = "End of training") -> str:
        """Publishes the finished run as `hub_model_id`; gives the commit's address, on the first process.

        Raises:
            UserError: if the run is not finished, or the Hub does not take it.
        """
        pushed = on_first_process(self.accelerator, partial(self.publisher.push, self.folder.path, commit_message))
        return "" if pushed is None else pushed[0]

    def _run(self) -> RunState:
        """All steps that are left."""
        begun = "-".join(fingerprint(part) for _, part in self.model.body.parts())
        self.stamp = stamp = identity(self.config, self.prepared, begun, self.start.commit, self.start.stamp)
        checkpoint = self.folder.newest()
        step = checkpoint.step if checkpoint else 0
        refuse_unequal(self.accelerator, step, "the same checkpoint; give them an output_dir that all of them see")
        refuse_unequal(self.accelerator, stamp["data"], "the same rows; make them alike, a random split with a seed")
        if checkpoint is not None:
            on_first_process(self.accelerator, partial(refuse_another, checkpoint, stamp))
            self.course.step_size = checkpoint.state["step_size"]
        freeze(self.model, self.training.freeze)
        optimizer = make_optimizer(self.model, self.training)
        schedule = make_schedule(optimizer, self.training, self.course.total_steps)
        model, optimizer = self._prepared(optimizer)
        stopping = EarlyStopping(self.training, list(self.model.tasks))
        state = RunState(self.course.start(), StepLog(self.loss_weights), stopping)
        keeper = Keeper(
            self.folder.checkpoints, self.accelerator, self.model, optimizer, schedule, self.course.step_size, stamp
        )
        self._make_room(model, state)
        # Each process draws its own dropout.
        set_seed(self.training.seed + step, device_specific=True)
        kept = keeper.restore(checkpoint, state) if checkpoint else 0
        main = self.accelerator.is_main_process
        history = History(self.folder.path / "history.jsonl" if main else None, kept)
        self.history, trackers = history.entries, Trackers(self.accelerator)
        progress = TrainingProgress(self.course.total_steps, self.console, state.position.step)
        if self.folder.resume:
            progress.say(f"going on after step {state.position.step} of {self.course.total_steps}")
        trackers.start(self.config, state.position.step)
        try:
            with progress, StopSignals(to_stderr if main else lambda _: None) as signals:
                TrainingLoop(
                    self.config, model, optimizer, schedule, self.accelerator, self.course, keeper, state, history,
                    progress, trackers, signals, self._validate, self.choices, partial(self._publish, state),
                ).run()  # fmt: skip
        finally:
            history.close()
            trackers.end()
        for task in (name for name, rows in state.log.rows_seen.items() if not rows):
            progress.say(f"{task}: no row of it was drawn, so its head is not trained; see sampling, max_steps")
        return state

    def _prepared(self, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Model and optimizer as Accelerate spreads them over the processes."""
        if self.training.gradient_checkpointing:
            if not self.model.supports_gradient_checkpointing:
                raise UserError("training.gradient_checkpointing: this encoder does not support it; set it to false")
            self.model.activation_checkpointing_enable()
        if self.training.torch_compile:
            # In place, so that no weight is called otherwise; the heads' numbers of rows change with every batch.
            self.model.encoder.compile(dynamic=True)
        # The schedule stays unprepared: a prepared one advances once a process at each step.
        return self.accelerator.prepare(self.model, optimizer)

    def _make_room(self, model: nn.Module, state: RunState) -> None:
        """Before the first step: a micro-batch that fits on every process, and every start alike."""
        model.train()
        course, say = self.course, partial(self.console.print, markup=False, highlight=False)
        if self.accelerator.device.type != "cpu":
            largest = partial(course.largest_micro_batch, state.position)
            course.per_device = fitting_size(model, largest, course.per_device, self.accelerator, say)
        if self.accelerator.num_processes > 1:
            rehearse(model, self.collator([]), self.accelerator)

    def _validate(self) -> Validation | None:
        if not self.prepared.split("validation"):
            return None
        metrics = self._evaluate("validation")
        return Validation(metrics, self._score(metrics))

    def _finish(self, state: RunState) -> None:
        """Takes the best weights, settles thresholds on validation, measures test, for the first time, and saves."""
        best = state.best
        if best is not None:
            load_model(self.model, best.weights)
        thresholds = tuned_thresholds(
            self.model, self.prepared.split("validation"), self.config, self.collator, accelerator=self.accelerator
        )
        for task, threshold in thresholds.items():
            self.model.tasks[task].spec = replace(self.model.tasks[task].spec, threshold=threshold)
        kept = best.metrics if best is not None and not thresholds else self._evaluate("validation")
        self.metrics = {"validation": kept, "test": self._evaluate("test"), "score": self._score(kept)}
        self.model = self.start.whole(self.model)
        weights, record = model_tensors(self.model), self._record(state)
        on_first_process(
            self.accelerator,
            lambda: self.folder.save(self.model, weights, self.tokenizer, self.config, self.metrics, record),
        )

    def _record(self, state: RunState) -> dict[str, Any]:
        return run_record(
            self.config,
            self.data_record,
            self.start.encoder_record,
            self.stamp["versions"],
            seconds=state.elapsed,
            steps=state.position.step,
            processes=self.accelerator.num_processes,
            device=self.accelerator.device,
        )

    def _publish(self, state: RunState, position: Position, checkpoint: Checkpoint | None) -> None:
        """Publishes a save, if saves are to be published. All processes must call it."""
        if not self.publisher.with_saves:
            return
        weights = model_tensors(self.model)
        if not self.accelerator.is_main_process:
            return
        last = self.history[-1] if self.history else {}
        found = last["metrics"] if last.get("split") == "validation" and last["step"] == position.step else {}
        metrics = {"validation": found, "test": {}, "score": last.get("score") if found else None}
        record = self._record(state)
        self.publisher.saved(
            position.step,
            lambda folder: write_folder(folder, self.model, weights, self.tokenizer, self.config, metrics, record),
            checkpoint,
            self.folder.path / "history.jsonl",
        )

    def _evaluate(self, split: str) -> dict[str, Any]:
        results = evaluate_split(
            self.model, self.prepared.split(split), self.config, self.collator, accelerator=self.accelerator
        )
        return {task: result.metrics for task, result in results.items()}

    def _score(self, metrics: Mapping[str, Mapping[str, Any]]) -> float | None:
        weights = {task: self.config.tasks[task].score_weight for task in self.model.tasks}
        return score(metrics, self.choices, weights)
