"""Tests run side by side (pytest-xdist): each process computes on one thread, or they would wait for one another."""

import os

import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
