"""What the tests of awkward files share."""

import pytest

from tests.acceptance.hard_files import Bench, write_copies


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return write_copies(tmp_path_factory.mktemp("copies"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Commands in this process, with a cache of their own, so that rows read by older code are read again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield Bench(tmp_path_factory.mktemp("bench"))
