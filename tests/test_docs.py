"""The README and the guide say what the code does."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML

from hf_mtl.config import load_config
from hf_mtl.config_keys import (
    CsvConfig,
    DatasetConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
    TrainingConfig,
)
from hf_mtl.config_lora import LoraSection
from hf_mtl.config_sharing import SharingSection
from hf_mtl.config_task_checks import METRICS

REPOSITORY = Path(__file__).parents[1]
GUIDE = (REPOSITORY / "docs" / "guide.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SECTIONS = {
    "## Run file": RunConfig,
    "### `datasets.NAME`": DatasetConfig,
    "### `tasks.NAME`": TaskConfig,
    "### `sampling`": SamplingConfig,
    "### `lora`": LoraSection,
    "### `sharing`": SharingSection,
    "### `training`": TrainingConfig,
    "### `datasets.NAME.csv`": CsvConfig,
}


def table(heading: str) -> dict[str, str]:
    """Key → default of the first table below a heading."""
    text = GUIDE.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", text, re.MULTILINE))


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_guide_lists_every_key_with_its_default(heading: str) -> None:
    section: type[BaseModel] = SECTIONS[heading]
    listed = table(heading)
    assert list(listed) == list(section.model_fields)
    for key, field in section.model_fields.items():
        default = field.get_default()
        if (section, key) == (DatasetConfig, "path"):  # required in a file, though not in a dict
            default = PydanticUndefined
        if default is PydanticUndefined:
            assert listed[key] == "required"
        else:
            shown = YAML(typ="safe", pure=True).load(listed[key].strip("`"))
            assert shown == (default.model_dump(exclude_unset=True) if isinstance(default, BaseModel) else default)


def test_the_guide_lists_every_metric_with_the_default_first() -> None:
    rows = GUIDE.split("\n## Metrics\n", 1)[1].strip().split("\n\n")[0].splitlines()[2:]
    listed = [tuple(re.findall(r"`(\w+)`", row.split("|")[2])) for row in rows]
    assert [metrics[: len(known)] for metrics, known in zip(listed, METRICS.values(), strict=True)] == [
        *METRICS.values()
    ]


def test_the_readme_s_run_file_is_valid() -> None:
    block = README.split("```yaml\n", 1)[1].split("```", 1)[0]
    config = load_config(YAML(typ="safe", pure=True).load(block))
    assert {task.dataset for task in config.tasks.values()} == set(config.datasets)


@pytest.mark.parametrize("name", ["README.md", "docs/guide.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    page = REPOSITORY / name
    text = page.read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in text.splitlines()}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("https://"):
            assert (page.parent / link).exists(), link
