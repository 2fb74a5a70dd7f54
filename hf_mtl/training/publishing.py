"""A run's model on the Hub: at its end, and with its saves if the run file says so."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from threading import Thread
from typing import Any

from accelerate import Accelerator

from hf_mtl.config_keys import TrainingConfig
from hf_mtl.errors import FinishedError, StoppedError, UserError
from hf_mtl.hub.contents import read_contents
from hf_mtl.hub.publication import Publication, publication
from hf_mtl.hub.push import Repository, push_model
from hf_mtl.inference.new_folder import take_over
from hf_mtl.training.checkpoint import Checkpoint
from hf_mtl.training.launch import on_first_process
from hf_mtl.training.output import SAVING

LAST_CHECKPOINT = "last-checkpoint"


@dataclass
class Publisher:
    """Publishes a run's model, if it is to be published.

    Args:
        training: the run's section.
        accelerator: all processes must call `open` and `finish` together.
        say: shows a line.
    """

    training: TrainingConfig
    accelerator: Accelerator
    say: Callable[[str], None]
    repository: Repository | None = None
    _upload: Thread | None = field(default=None, repr=False)

    @property
    def with_saves(self) -> bool:
        """Whether saves are published too."""
        return self.training.push_to_hub and self.training.hub_strategy != "end"

    def open(self) -> None:
        """Makes the repository: a token that cannot write to it shows before training, not after.

        Raises:
            UserError: on every process, if there is no such token.
        """
        if self.training.push_to_hub:
            self.repository = on_first_process(
                self.accelerator,
                lambda: Repository.open(repository_name(self.training), private=self.training.hub_private_repo),
            )

    def saved(self, step: int, write: Callable[[Path], None], checkpoint: Checkpoint | None, history: Path) -> None:
        """Publishes the model as it is now, beside training; not while an earlier save is still on its way.

        Args:
            step: optimizer steps done.
            write: fills a folder with the model.
            checkpoint: of this step.
            history: the run's `history.jsonl`.
        """
        if self.repository is None or (self._upload is not None and self._upload.is_alive()):
            return
        folder: Path | None = None
        try:
            # In the run's folder: there the next start removes what a stopped one has left.
            folder = Path(mkdtemp(prefix=SAVING, dir=history.parent))
            (folder / "model").mkdir()
            write(folder / "model")
            files = dict(publication(read_contents(folder / "model"), self.repository.id, self.repository.card()).files)
            delete: tuple[str, ...] = ()
            if self.training.hub_strategy == "checkpoint" and checkpoint is not None:
                # Linked: the run may remove its checkpoint while this one is on its way.
                take_over(checkpoint.path, folder / "checkpoint")
                shutil.copyfile(history, folder / history.name)
                files[history.name], delete = folder / history.name, (f"{LAST_CHECKPOINT}/",)
                for file in sorted((folder / "checkpoint").iterdir()):
                    files[f"{LAST_CHECKPOINT}/{checkpoint.path.name}/{file.name}"] = file
        except Exception as error:  # a save that is not published is worth a line, not the run
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            self.say(f"the save of step {step} is not published: {error}")
            return
        # A daemon: a run that is stopped does not wait for it, and a commit that is not finished changes nothing.
        self._upload = Thread(target=self._send, args=(folder, files, delete, step), daemon=True)
        self._upload.start()

    def _send(self, folder: Path, files: Mapping[str, Any], delete: tuple[str, ...], step: int) -> None:
        assert self.repository is not None
        try:
            self.repository.commit(Publication(files), f"Training in progress, step {step}", delete)
        except UserError as error:
            self.say(f"the save of step {step} is not published: {error}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self, folder: Path) -> None:
        """Publishes the finished model.

        Args:
            folder: where it lies.

        Raises:
            UserError: on every process, if the Hub does not take it.
        """
        if not self.training.push_to_hub:
            return
        if self._upload is not None:
            self._upload.join()
        name = repository_name(self.training)
        try:
            on_first_process(self.accelerator, lambda: self.push(folder, "End of training"))
        except KeyboardInterrupt:
            raise StoppedError(f"stopped while the model was published. {_later(folder, name)}", 130) from None
        except UserError as error:
            told = UserError(f"{error}. {_later(folder, name)}")
            told.told = error.told
            raise told from error

    def push(self, folder: Path, message: str) -> list[str]:
        """Publishes the model in a folder, from the process that calls it."""
        name, private = repository_name(self.training), self.training.hub_private_repo
        return push_model(folder, name, private=private, message=message, say=self.say)


def _later(folder: Path, name: str) -> str:
    return f"The model is saved in {folder}; hf-mtl push {folder} {name} publishes it without training"


def finished(training: TrainingConfig, error: FinishedError) -> FinishedError:
    """What a run that is to go on, and is finished, tells; one that was stopped at its end may not be published."""
    if not training.push_to_hub:
        return error
    name = repository_name(training)
    told = FinishedError(f"{error}; if it is not on the Hub: hf-mtl push {training.output_dir} {name}")
    told.told = error.told
    return told


def repository_name(training: TrainingConfig) -> str:
    """The repository of a run: as given, or called as the last folder of `output_dir`, as TrainingArguments has it."""
    return training.hub_model_id or Path(training.output_dir).absolute().name
