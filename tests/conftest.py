"""Tests run side by side (pytest-xdist): each process computes on one thread, or they would wait for one another."""

import os
from pathlib import Path

import datasets
import pytest
import torch

from tests.adapted import Tiny

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Tiny encoders, and models with adapters on them."""
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of rows of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder
