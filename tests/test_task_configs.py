"""The run files that a reader can copy."""

from pathlib import Path

import pytest

from hf_mtl.config import load_config

FOLDER = Path(__file__).parents[1] / "task_configs"
RUN_FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_run_file_is_valid_and_opens_with_its_command(path: Path) -> None:
    config = load_config(path)
    assert len(config.tasks) > 1
    assert config.training.output_dir == f"out/{path.stem}"
    assert path.read_text(encoding="utf-8").splitlines()[0] == f"# hf-mtl train task_configs/{path.name}"


@pytest.mark.parametrize("path", [path for path in RUN_FILES if path.stem != "quickstart"], ids=lambda path: path.stem)
def test_a_run_file_on_hub_data_says_that_only_its_form_was_checked(path: Path) -> None:
    comment = " ".join(line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines()[:8])
    assert "The rows come from the Hub; only the form of this file was checked, without network." in comment


def test_the_quickstart_reads_the_files_that_the_script_writes() -> None:
    script = (FOLDER.parent / "scripts" / "quickstart_data.py").read_text(encoding="utf-8")
    assert '"task_configs" / "quickstart_data"' in script
    datasets = load_config(FOLDER / "quickstart.yaml").datasets
    for name, data in datasets.items():
        splits = ("train", "validation", "test")
        assert data.data_files == {split: f"quickstart_data/{name}/{split}.jsonl" for split in splits}
