"""Local data files: found as they are typed, hashed, and opened as text with bad bytes marked, not dropped."""

import codecs
import difflib
import glob
import gzip
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO, cast

from hf_mtl.errors import DataError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Longer marks first: that of UTF-32 LE starts with that of UTF-16 LE."""

_MARKED = re.compile("[\udc00-\udcff]")


def _mark(error: UnicodeError) -> tuple[str, int]:
    # A lone surrogate for each byte, as in "surrogateescape", which leaves out bytes below 0x80 (those of UTF-16).
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("hf_mtl.mark", _mark)


def bad_byte(text: str) -> int | None:
    """The first byte that was not in the file's encoding, if `text` has any."""
    found = None if text.isascii() else _MARKED.search(text)
    return ord(found.group()) - 0xDC00 if found else None


@dataclass(frozen=True)
class SourceFile:
    """A local file: `name` as messages show it, `path` as it is opened."""

    name: str
    path: Path

    @property
    def suffix(self) -> str:
        """The last suffix in lower case, `.gz` left out."""
        name = self.path.name.lower().removesuffix(".gz")
        return os.path.splitext(name)[1]

    @property
    def is_named_packed(self) -> bool:
        """Whether the name says that it is packed with gzip."""
        return self.path.name.lower().endswith(".gz")

    @property
    def is_packed(self) -> bool:
        """Whether the first bytes say so."""
        with self.path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"

    def other_format(self, encoding: str | None = None) -> str | None:
        """What the first bytes show the file to be if it is no text, or not in the encoding (None is UTF-8)."""
        with self._open_bytes() as file:
            first = file.read(64)
        if first.startswith(b"\x1f\x8b"):
            return "packed twice with gzip; unpack it once"
        if first.startswith(b"PK\x03\x04"):
            return "a zip archive, as Excel's .xlsx are; unpack it, or save the table as csv in UTF-8"
        if first.startswith(b"PAR1"):
            return "a parquet file; write path: parquet"
        is_utf8 = encoding is None or codecs.lookup(encoding).name == "utf-8"
        # In Latin text every second byte of UTF-16 is null; a text may hold one.
        if is_utf8 and first.count(0) > len(first) // 3 and not first.startswith(tuple(BYTE_ORDER_MARKS)):
            return "holds null bytes, as UTF-16 without a byte order mark does; save it as UTF-8"
        return None

    def digest(self) -> str:
        """sha256 of the bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def open_text(self, encoding: str | None = None, newline: str | None = None) -> Iterator[TextIO]:
        """The file as text, unpacked if its name ends in `.gz`.

        Without `encoding` a byte order mark tells it, else it is UTF-8. Bytes that are not in the encoding become
        characters that `bad_byte` finds.
        """
        with self._open_bytes() as file:
            text = io.TextIOWrapper(file, encoding or "utf-8", errors="hf_mtl.mark", newline=newline)
            if encoding is None or codecs.lookup(encoding).name == "utf-8":
                mark = cast(io.BufferedReader, file).peek(4)[:4]
                found = next((name for bom, name in BYTE_ORDER_MARKS.items() if mark.startswith(bom)), "utf-8")
                text.reconfigure(encoding=found, errors="hf_mtl.mark")
            yield text

    def _open_bytes(self) -> IO[bytes]:
        if self.is_named_packed:
            return cast(IO[bytes], gzip.open(self.path, "rb"))
        return self.path.open("rb")


def source_files(
    key: str, data_files: str | Sequence[str] | Mapping[str, str | Sequence[str]], base_dir: str | Path
) -> dict[str, list[SourceFile]]:
    """The files of each split as `data_files` of the run file names them (a name or a list alone is train).

    Args:
        key: where `data_files` stands in the run file, for messages.
        data_files: names or patterns. A name that exists is no pattern.
        base_dir: where relative names start.

    Raises:
        DataError: for names and patterns that find no file, all at once.
    """
    if not isinstance(data_files, Mapping):
        data_files = {"train": data_files}
    found: dict[str, list[SourceFile]] = {}
    errors: list[str] = []
    for split, typed in data_files.items():
        try:
            found[split] = _files_of_split([typed] if isinstance(typed, str) else list(typed), Path(base_dir))
        except DataError as error:
            errors.append(f"{key}.{split}: {error}")
    if errors:
        raise DataError("\n".join(errors))
    return found


def _files_of_split(typed: list[str], base_dir: Path) -> list[SourceFile]:
    files = [file for name in typed for file in _files(name, base_dir)]
    if not files:
        raise DataError("no file is named")
    seen: set[Path] = set()
    for file in files:
        resolved = file.path.resolve()
        if resolved in seen:
            raise DataError(f"{file.name} is named twice; its rows would be read twice")
        seen.add(resolved)
    return files


def _files(typed: str, base_dir: Path) -> list[SourceFile]:
    path = base_dir / os.path.expanduser(typed)
    try:
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(f"{typed} is a link to {os.readlink(path)}, which is not there") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{typed} cannot be opened ({error})") from None
    if path.is_dir():
        raise DataError(f"{typed} is a folder; name files, for example {typed.rstrip('/')}/*.jsonl")
    if path.is_file():
        return [SourceFile(typed, path)]
    if path.exists():
        # A file is read several times: for its hash, its shape and its rows.
        raise DataError(f"{typed} is a pipe or a device; write its rows to a file")
    if not glob.has_magic(typed):
        raise DataError(_not_there(typed, path))
    names = sorted(glob.glob(os.path.expanduser(typed), root_dir=base_dir, recursive=True))
    files = [SourceFile(name, base_dir / name) for name in names if (base_dir / name).is_file()]
    if not files:
        raise DataError(f"no file matches the pattern {typed} (relative names start in {base_dir.absolute()})")
    return files


def _not_there(typed: str, path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no file {typed}: the folder {folder.absolute()} does not exist"
    nearest = difflib.get_close_matches(path.name, sorted(os.listdir(folder)), n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"there is no file {typed}: {folder.absolute()} holds no {path.name}{hint}"
