"""Speed, as ratios within one run on the same rows, and scores, against one model a task with the same recipe.

    python scripts/benchmark.py train   --data DIR     # training against a bare loop, and the share of padding
    python scripts/benchmark.py predict --data DIR     # all tasks in one pass against stock pipelines one after another
    python scripts/benchmark.py start                  # time before the first step on 1,000,000 cached rows
    python scripts/benchmark.py read                   # the row readers beside datasets.load_dataset on 200 MB
    python scripts/benchmark.py cost    --data DIR     # plan, counts, log and checkpoints as a share of training
    python scripts/benchmark.py memory                 # resident memory over 10,000 steps of a tiny model
    python scripts/benchmark.py lora    --data DIR     # speed, trained weights and peak memory of LoRA's scopes
    python scripts/benchmark.py sharing --data DIR     # speed and size with private top layers, and with a model a task
    python scripts/benchmark.py scores  --data DIR     # one model, a model a task, LoRA, private layers: see --models
    python scripts/benchmark.py mixtures --data DIR    # scores of ways of sharing on four mixtures of tasks

DIR holds sets as JSON lines (`<set>/train.jsonl` and so on): clinc150 (`text`, `label`), goemotions (`text`,
`sentiment`), wnut17 (`tokens`, `ner_tags`); for --sets also snips (`text`, `tokens`, `intent`, `slot_tags`) and
stsb_open (`text_a`, `text_b`, `label`). What is compared runs in turns, so that a noisy machine slows both sides alike.
"""

import argparse
import sys
from pathlib import Path

# Started as a script, Python would look for modules beside this file alone.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.benchmark_cost import cost  # noqa: E402
from scripts.benchmark_lora import lora  # noqa: E402
from scripts.benchmark_memory import memory  # noqa: E402
from scripts.benchmark_read import read  # noqa: E402
from scripts.benchmark_runs import ENCODER, SETS, THREE  # noqa: E402
from scripts.benchmark_scores import MODELS, mixtures, model_names, scores  # noqa: E402
from scripts.benchmark_sharing import sharing  # noqa: E402
from scripts.benchmark_speed import predict, start, train  # noqa: E402

COMMANDS = {
    "train": train,
    "predict": predict,
    "start": start,
    "read": read,
    "cost": cost,
    "memory": memory,
    "lora": lora,
    "sharing": sharing,
    "scores": scores,
    "mixtures": mixtures,
}
WITHOUT_DATA = ("start", "memory", "read")
STEPS = {"memory": 10_000}
ROWS = {"lora": 500, "sharing": 500}


def main() -> None:
    """Reads the arguments and runs one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--data", type=Path, help="folder of the three sets")
    parser.add_argument("--encoder", default=ENCODER, help="as in a run file (default: %(default)s)")
    parser.add_argument("--rows", type=int, help="rows of each set at most (default: 6000; with lora, 500)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="steps of a turn (default: 20); with memory, of the run (10,000)")
    parser.add_argument("--turns", type=int, default=6, help="turns of each side (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=200, help="of a file to read (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=600, help="texts to predict (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44], help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="of a model in scores (default: %(default)s)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=THREE, help="default: %(default)s")
    parser.add_argument(
        "--models", type=model_names, default="one,alone", help=f"of {', '.join(MODELS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--eval-strategy",
        choices=["epoch", "no"],
        default="epoch",
        help="of scores: the best epoch's weights, or the last (default: %(default)s)",
    )
    parser.add_argument("--results", type=Path, help="JSON lines of scores: kept there, and not measured again")
    parser.add_argument("--start-rows", type=int, default=1_000_000, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.what not in WITHOUT_DATA and arguments.data is None:
        parser.error("--data is needed")
    arguments.rows = arguments.rows or ROWS.get(arguments.what, 6000)
    arguments.steps = arguments.steps or STEPS.get(arguments.what, 20)
    COMMANDS[arguments.what](arguments)


if __name__ == "__main__":
    main()
