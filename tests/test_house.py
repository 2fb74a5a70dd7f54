"""The order of the house: which folder may import from which, how long a file may be, what the README promises."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "hf_mtl"
FOLDERS = ["metrics", "tasks", "data", "batching", "modeling", "inference", "evaluation", "hub", "training", "analysis"]
"""In the order in which data walks through them: a folder imports only from itself and from those before it."""
ROOT_MODULES = {
    "config",
    "config_checks",
    "config_defaults",
    "config_keys",
    "config_lora",
    "config_messages",
    "config_section",
    "config_sharing",
    "config_task_checks",
    "errors",
    "hub_errors",
    "run_file",
    "sources",
}
"""What any folder may import; these import nothing of the folders."""
ENTRANCES = {"cli", "cli_hub", "__main__", "__init__"}
"""What may import everything, and is imported by no other module."""
FILES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(module, imported names) for every import from the package, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if alias.name.split(".")[0] == "hf_mtl")
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "hf_mtl"):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_folder_imports_only_from_those_above_it(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ENTRANCES:
        return
    allowed = {*ROOT_MODULES, *FOLDERS[: FOLDERS.index(room) + 1]} if room in FOLDERS else ROOT_MODULES
    for module, names in imports(path):
        parts = module.split(".")
        targets = [parts[1]] if len(parts) > 1 else names
        assert set(targets) <= allowed, f"{name(path)} imports {targets} of {module}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_names_are_imported_from_the_module_that_defines_them(path: Path) -> None:
    for module, names in imports(path):
        assert not module.startswith("."), f"{name(path)} has a relative import: {module}"
        source = PACKAGE.joinpath(*module.split(".")[1:])
        if source.is_dir():
            modules = [(source / imported).with_suffix(".py") for imported in names]
            assert all(found.exists() for found in modules), f"{name(path)} imports {names} from the folder {module}"
            continue
        tree = ast.parse(source.with_suffix(".py").read_text(encoding="utf-8"))
        assert set(names) <= set(defined(tree)), f"{module} does not itself define all of {names}"


def defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield from (part.id for part in ast.walk(node.target) if isinstance(part, ast.Name))
        elif isinstance(node, ast.Assign):
            targets = (part for target in node.targets for part in ast.walk(target))
            yield from (part.id for part in targets if isinstance(part, ast.Name))


def test_the_folders_have_empty_inits() -> None:
    folders = [path for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    assert folders
    for folder in folders:
        assert folder.name in FOLDERS, f"{folder.name} has no place in the order"
        assert (folder / "__init__.py").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_stays_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320
    assert path.name not in ("utils.py", "helpers.py", "common.py")


def test_reading_a_run_file_needs_neither_torch_nor_datasets() -> None:
    heavy = {"torch", "datasets", "transformers", "peft"}
    code = f"import sys, hf_mtl.config; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def commands() -> list[str]:
    """The README's one-line commands, each in a block of its own."""
    blocks = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [block.strip() for block in blocks if block.startswith("python -m venv")]


def test_the_readme_has_one_line_to_start_and_one_to_test() -> None:
    start, test = commands()
    assert "\n" not in start + test
    assert "hf-mtl train task_configs/quickstart.yaml" in start
    assert test.endswith("pytest")


def test_continuous_integration_runs_the_readme_s_test_command() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert commands()[1] in script.read_text(encoding="utf-8").splitlines()
