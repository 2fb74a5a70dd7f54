"""Local files → rows, read line by line. A format is a reader, and a reader is a line in `READERS`."""

import gzip
import zlib
from collections.abc import Callable, Iterator

from hf_mtl.data.conll_reader import read_conll
from hf_mtl.data.csv_reader import read_csv
from hf_mtl.data.files import SourceFile, bad_byte
from hf_mtl.data.json_reader import read_json
from hf_mtl.data.records import SAVE_AS_UTF8, Block, Problems, ReadOptions, Record, not_encoded, place
from hf_mtl.errors import DataError


def read_text(source: SourceFile, options: ReadOptions, problems: Problems) -> Iterator[Record]:
    """Text, a line a row, in the column `text`; blank lines are no rows."""
    row = 0
    with source.open_text() as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row += 1
            if (byte := bad_byte(line)) is not None:
                problems.add(f"{place(source.name, row, number)}: {not_encoded(byte, 'UTF-8', SAVE_AS_UTF8)}")
                continue
            yield Record(row, 0 if number == row else number, {"text": line.removesuffix("\n")})


READERS: dict[str, Callable[[SourceFile, ReadOptions, Problems], Iterator[Record | Block]]] = {
    "json": read_json,
    "csv": read_csv,
    "text": read_text,
    "conll": read_conll,
}


def read_file(source: SourceFile, options: ReadOptions, problems: Problems) -> Iterator[Record]:
    """The rows of a file; whatever keeps it from being read to its end is put to `problems`."""
    for found in read_blocks(source, options, problems):
        if isinstance(found, Block):
            yield from found.records()
        else:
            yield found


def read_blocks(source: SourceFile, options: ReadOptions, problems: Problems) -> Iterator[Record | Block]:
    """The rows of a file as `read_file` gives them, in blocks where its format makes that faster."""
    last = 0
    try:
        if source.is_packed and not source.is_named_packed:
            raise DataError(f"{source.name}: packed with gzip, and its name does not end in .gz; rename or unpack it")
        if what := source.other_format(options.encoding):
            raise DataError(f"{source.name}: {what}")
        for found in READERS[options.format](source, options, problems):
            last = found.rows[-1] if isinstance(found, Block) else found.row
            yield found
    except (gzip.BadGzipFile, EOFError, zlib.error):
        if not source.is_packed:
            problems.add(f"{source.name}: the name ends in .gz, but the content is not gzip; rename or pack it")
            return
        behind = f" behind row {last}" if last else ""
        problems.add(f"{source.name}: the gzip file is cut off or damaged{behind}; fetch or pack it again")
    except UnicodeError as error:
        problems.add(
            f"{source.name}: cannot be read as {options.encoding} ({error}); name the file's encoding, for example "
            "csv: {encoding: cp1252}"
        )
    except LookupError as error:
        problems.add(f"{source.name}: csv.encoding: {error}; use for example utf-8, cp1252, gb18030 or utf-16")
    except (OSError, DataError) as error:
        problems.add(f"{source.name}: cannot be read ({error})" if isinstance(error, OSError) else str(error))
