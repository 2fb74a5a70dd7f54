"""The training run: from a run file to a trained, measured and saved model."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_bf16_available
from rich.console import Console
from transformers import PreTrainedTokenizerBase, set_seed

from hf_mtl.batching.collator import Batch, Collator
from hf_mtl.batching.draws import units
from hf_mtl.batching.plan import EpochPlan, count_steps, plan
from hf_mtl.batching.step_loader import step_loader
from hf_mtl.config import encoder_source, load_config
from hf_mtl.config_keys import RunConfig
from hf_mtl.data.preparation import Prepared, prepare
from hf_mtl.data.report import left_out, without_validation
from hf_mtl.data.tokenizer import load_tokenizer
from hf_mtl.errors import UserError
from hf_mtl.evaluation.score import score
from hf_mtl.evaluation.splits import evaluate_split, metric_choices, tuned_thresholds
from hf_mtl.modeling.model import MultiTaskModel
from hf_mtl.training.history import History, StepLog, Stopwatch
from hf_mtl.training.optimization import make_optimizer, make_schedule
from hf_mtl.training.output import RunFolder
from hf_mtl.training.progress import TrainingProgress, results_table
from hf_mtl.training.step import StepResult, train_step


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
        console: where progress is shown.
    """

    def __init__(
        self,
        config: RunConfig,
        model: MultiTaskModel,
        tokenizer: PreTrainedTokenizerBase,
        prepared: Prepared,
        folder: RunFolder,
        console: Console | None = None,
    ) -> None:
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.prepared, self.folder = prepared, folder
        self.accelerator = make_accelerator(config)
        self.console = console or Console(quiet=not self.accelerator.is_main_process)
        self.training = config.training
        self.collator = Collator.for_tasks(tokenizer, model.tasks, self.accelerator.device)
        self.train_sequences = prepared.split("train")
        items = {
            name: {task: sequences.items(task) for task in model.tasks if config.tasks[task].dataset == name}
            for name, sequences in self.train_sequences.items()
        }
        self.units = units(items, list(model.tasks), config.sampling.batch)
        self.loss_weights = {task: config.tasks[task].loss_weight for task in model.tasks}
        self.choices = metric_choices(model.tasks, config.tasks)
        self.metrics: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, dict[str, torch.Tensor], dict[str, Any]] | None = None

    @classmethod
    def from_config(
        cls,
        config: RunConfig | Mapping[str, Any],
        *,
        datasets: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        console: Console | None = None,
    ) -> "MultiTaskTrainer":
        """Reads rows, settles the labels and builds the model.

        Args:
            config: from `load_config`, or a dict of the same keys.
            datasets: rows in memory by data set: a `DatasetDict`, or split → `Dataset`.
            overwrite: whether a run in `output_dir` is replaced.
            console: where progress is shown; the standard output by default.

        Raises:
            UserError: whatever is wrong with the run file, the rows, the encoder or `output_dir`.
        """
        config = config if isinstance(config, RunConfig) else load_config(config)
        console = console or Console(quiet=int(os.environ.get("RANK", "0")) > 0)
        folder = RunFolder(config.training.output_dir, overwrite=overwrite)
        source = encoder_source(config)
        tokenizer = load_tokenizer(source, config.max_length)
        say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
        prepared = prepare(config, tokenizer, memory=datasets, progress=say)
        for dataset, splits in prepared.sequences.items():
            for line in left_out(dataset, splits):
                say(line)
        for line in without_validation(config, prepared):
            say(line)
        set_seed(config.training.seed)
        model = MultiTaskModel.from_encoder(source, list(prepared.tasks.values()), config.encoder_config)
        return cls(config, model, tokenizer, prepared, folder, console)

    @property
    def step_size(self) -> int:
        """Sequences of an optimizer step, on all processes together."""
        training = self.training
        processes = self.accelerator.num_processes
        return training.per_device_train_batch_size * processes * training.gradient_accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        sampling = self.config.sampling
        return count_steps(self.units, self.step_size, sampling.strategy, sampling.batch)

    @property
    def total_steps(self) -> int:
        if self.training.max_steps > 0:
            return self.training.max_steps
        return math.ceil(self.training.num_train_epochs * self.steps_per_epoch)

    def epoch_plan(self, epoch: int, draws: Mapping[str, int]) -> EpochPlan:
        """The steps of an epoch, given the draws before it."""
        sampling = self.config.sampling
        return plan(
            self.training.seed,
            epoch,
            self.units,
            draws,
            [sequences.lengths for sequences in self.train_sequences.values()],
            self.step_size,
            sampling.strategy,
            temperature=sampling.temperature,
            weights=sampling.weights,
            batch=sampling.batch,
            pool_size=sampling.pool_size,
        )

    def steps(self) -> Iterator[list[Batch]]:
        """This process's micro-batches of every step, epoch after epoch, without end."""
        draws: dict[str, int] = {}
        epoch = 0
        while True:
            epoch_plan = self.epoch_plan(epoch, draws)
            yield from step_loader(
                epoch_plan,
                list(self.train_sequences.values()),
                self.collator,
                rank=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
                per_device=self.training.per_device_train_batch_size,
                num_workers=self.training.dataloader_num_workers,
                pin_memory=self.accelerator.device.type == "cuda",
            )
            draws, epoch = epoch_plan.draws, epoch + 1

    def train(self) -> dict[str, Any]:
        """Trains, keeps the best weights, measures test once, saves; gives what `metrics.json` holds.

        Raises:
            UserError: if the loss is no longer a number, or the run cannot be written.
        """
        main = self.accelerator.is_main_process
        history = History(self.folder.open() if main else None)
        self.history = history.entries
        try:
            with TrainingProgress(self.total_steps, self.console) as progress:
                self._run(history, progress)
        finally:
            history.close()
        self._finish()
        if main:
            self.folder.save(self.model, self.tokenizer, self.config, self.metrics)
        self.console.print(results_table(self.metrics))
        if main:
            self.console.print(f"saved in {self.folder.path}", markup=False, highlight=False)
        return self.metrics

    def _run(self, history: History, progress: TrainingProgress) -> None:
        optimizer = make_optimizer(self.model, self.training)
        schedule = make_schedule(optimizer, self.training, self.total_steps)
        # The schedule stays unprepared: a prepared one advances once a process at each step.
        model, optimizer = self.accelerator.prepare(self.model, optimizer)
        log, watch = StepLog(self.loss_weights), Stopwatch()
        model.train()
        for step, batches in enumerate(self.steps(), start=1):
            rate = float(schedule.get_last_lr()[0])
            result = train_step(
                model, batches, optimizer, self.accelerator, self.loss_weights, self.training.max_grad_norm
            )
            self._refuse_nonfinite(step, result)
            schedule.step()
            seconds = watch.lap()
            log.add(result, seconds)
            progress.step(result, seconds)
            epoch, last = step / self.steps_per_epoch, step == self.total_steps
            if last or step % self.training.logging_steps == 0:
                entry = log.entry(step, epoch, rate)
                history.write(entry)
                progress.logged(entry)
            if last or self._evaluates_after(step):
                self._validate(step, epoch, history, progress)
                watch.restart()
            if last:
                for task in (name for name, rows in log.rows_seen.items() if not rows):
                    progress.say(f"{task}: no row of it was drawn, so its head is not trained; see sampling, max_steps")
                return

    def _evaluates_after(self, step: int) -> bool:
        if self.training.eval_strategy == "steps":
            return step % (self.training.eval_steps or 1) == 0
        return self.training.eval_strategy == "epoch" and step % self.steps_per_epoch == 0

    def _validate(self, step: int, epoch: float, history: History, progress: TrainingProgress) -> None:
        if self.training.eval_strategy == "no" or not self.prepared.split("validation"):
            return
        metrics = self._evaluate("validation")
        reached = self._score(metrics)
        entry = {"step": step, "epoch": round(epoch, 4), "split": "validation", "metrics": metrics, "score": reached}
        history.write(entry)
        progress.evaluated(entry, self.choices)
        if self.training.load_best_model_at_end and reached is not None and (not self.best or reached > self.best[0]):
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
            self.best = (reached, weights, metrics)

    def _finish(self) -> None:
        """Takes the best weights, settles thresholds on validation, and measures test, for the first time."""
        if self.best is not None:
            self.model.load_state_dict(self.best[1])
        thresholds = tuned_thresholds(self.model, self.prepared.split("validation"), self.config, self.collator)
        for task, threshold in thresholds.items():
            self.model.tasks[task].spec = replace(self.model.tasks[task].spec, threshold=threshold)
        kept = self.best[2] if self.best is not None and not thresholds else self._evaluate("validation")
        self.metrics = {"validation": kept, "test": self._evaluate("test"), "score": self._score(kept)}

    def _evaluate(self, split: str) -> dict[str, Any]:
        results = evaluate_split(self.model, self.prepared.split(split), self.config, self.collator)
        return {task: result.metrics for task, result in results.items()}

    def _score(self, metrics: Mapping[str, Mapping[str, Any]]) -> float | None:
        weights = {task: self.config.tasks[task].score_weight for task in self.model.tasks}
        return score(metrics, self.choices, weights)

    def _refuse_nonfinite(self, step: int, result: StepResult) -> None:
        wrong = [task for task, loss in result.loss_sums.items() if not math.isfinite(loss)]
        if not wrong and not math.isfinite(result.grad_norm):
            raise UserError(
                f"step {step}: the gradient is not finite although every loss is; nothing was saved. "
                "Lower training.learning_rate, or compute without bf16"
            )
        if wrong:
            raise UserError(
                f"step {step}: the loss of {', '.join(wrong)} (data set "
                f"{', '.join(dict.fromkeys(self.config.tasks[task].dataset for task in wrong))}) is not a finite "
                "number; nothing was saved. Lower training.learning_rate or raise training.warmup_steps"
            )


def make_accelerator(config: RunConfig) -> Accelerator:
    """Accelerate for this run: on the CPU where there is no accelerator.

    Raises:
        UserError: if the launcher started several processes which Accelerate does not see as one run, or if the
            device has no bf16.
    """
    if config.training.bf16 and not is_bf16_available():
        raise UserError("training.bf16: this device cannot compute in bfloat16; set it to false")
    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=1,
            mixed_precision="bf16" if config.training.bf16 else "no",
            cpu=not torch.accelerator.is_available(),
        )
    except ValueError as error:
        # Accelerate keeps one precision for the life of a Python process.
        raise UserError(f"training.bf16: {error}") from error
    if accelerator.gradient_accumulation_steps != 1:
        # The variable overrides the argument, and Accelerate's backward would then divide the loss.
        raise UserError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is set; unset it and write training.gradient_accumulation_steps"
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise UserError(
            f"the launcher started {world} processes, but Accelerate sees {accelerator.num_processes}; without a GPU "
            "start them with: torchrun --nproc_per_node N -m hf_mtl train CONFIG"
        )
    return accelerator
