"""Trains a run file, for launchers that start a script: the same as `hf-mtl train`, with the same arguments.

For instance:

    accelerate launch scripts/train.py task_configs/quickstart.yaml
    torchrun --nproc_per_node 2 scripts/train.py task_configs/quickstart.yaml --resume
"""

import sys

from hf_mtl.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
