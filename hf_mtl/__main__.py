"""`python -m hf_mtl`, for launchers that start modules: the same as the command `hf-mtl`."""

from hf_mtl.cli import main

main()
