"""JSON Lines: one object per line, plain or gzipped, in the shapes that fine-tuning files have (``fields``)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data.base import Source
from fedsim.data.files import RawRows, raw_rows, read_files, reading, shown
from fedsim.data.rows import RowsConfig, to_corpus

SUFFIXES = (".jsonl", ".jsonl.gz")


class JsonLines(Source):
    """A ``.jsonl`` file; a pattern like ``banks/*.jsonl`` reads several, told apart by the column ``file``."""

    class Config(RowsConfig):
        path: str = Field(min_length=1, description=f"A file ({', '.join(SUFFIXES)}) or a pattern of files.")

    config: Config

    def load(self, seed: int) -> Corpus:
        return to_corpus(read_files(self.config.path, SUFFIXES, _read), self.config, seed)


def _read(file: Path) -> RawRows:
    import pandas as pd

    records: list[dict[str, Any]] = []
    lines: list[int] = []
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    with reading(file), opener(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                records.append(_record(line, f"{shown(file)}:{number}", first=number == 1))
                lines.append(number)
    if not records:
        raise DataError(f"{shown(file)}: is empty")
    return raw_rows(pd.DataFrame(records), shown(file), np.array(lines, dtype=np.int64))


def _record(line: bytes, place: str, first: bool) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is not UTF-8 (byte 0x{line[error.start]:02x}); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        array = "; the file looks like a JSON array: write one object per line" if first and line[:1] == b"[" else ""
        raise DataError(f"{place}: not a JSON object: {error.msg} at column {error.colno}{array}") from error
    if not isinstance(record, dict):
        raise DataError(f'{place}: expected an object like {{"text": ...}}, got {type(record).__name__}')
    return record
