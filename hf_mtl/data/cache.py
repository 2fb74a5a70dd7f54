"""Files derived from data, kept by the fingerprint of what they were made from."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets


def cached_folder(fingerprint: str, write: Callable[[Path], object]) -> Path:
    """The folder made from what `fingerprint` stands for; `write` fills it where it is not there yet.

    It is written beside and renamed into place: a killed run leaves no half a folder, and of two runs that write the
    same one at once either's is good. It lies in the cache folder of `datasets` (`HF_DATASETS_CACHE`).
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE, "hf_mtl")
    folder = cache / fingerprint[:32]
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=cache))
    # A folder in it, since mkdtemp's own may be read by this user alone, and caches are shared.
    made = beside / "made"
    try:
        made.mkdir()
        write(made)
        os.replace(made, folder)
    except OSError:
        # Another process may have put its own in place meanwhile.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder
