"""Worker: one process runs out of memory beyond four rows. `python -m tests.distributed.small_device RUN FOLDER`."""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from hf_mtl.training.rehearsal import fitting_size, rehearse
from hf_mtl.training.trainer import MultiTaskTrainer


def main(run_file: str, out: str) -> None:
    run = json.loads(Path(run_file).read_text(encoding="utf-8"))
    trainer = MultiTaskTrainer.from_config(run, console=Console(quiet=True))
    accelerator = trainer.accelerator
    model = accelerator.prepare(trainer.model).train()

    def refuse(module: torch.nn.Module, inputs: tuple, keywords: dict) -> None:
        if accelerator.process_index == 1 and len(keywords["input_ids"]) > 4:
            raise torch.OutOfMemoryError("out of memory")

    trainer.model.encoder.register_forward_pre_hook(refuse, with_kwargs=True)
    largest = partial(trainer.course.largest_micro_batch, trainer.course.start())
    size = fitting_size(model, largest, 16, accelerator, lambda _: None)
    rehearse(model, trainer.collator([]), accelerator)
    told = {"processes": accelerator.num_processes, "size": size}
    Path(out, f"{accelerator.process_index}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
