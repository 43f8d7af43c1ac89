"""CSV and Parquet tables through pandas.

Missing values are what pandas takes for one ("", NA, NaN, null, ...). A byte-order mark is skipped.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from pydantic import Field

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data.base import Source
from fedsim.data.files import RawRows, raw_rows, read_files, reading, shown
from fedsim.data.rows import RowsConfig, to_corpus

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
BAD_NOTES = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # pandas, of its own notes in a Parquet file


class Table(Source):
    """A file of rows and columns; a pattern like ``banks/*.csv`` reads several, told apart by the column ``file``."""

    class Config(RowsConfig):
        path: str = Field(min_length=1, description=f"A file ({', '.join(SUFFIXES)}) or a pattern of files.")
        sep: str | None = Field(
            default=None, min_length=1, description="Column separator: ',' unless the file is .tsv."
        )

    config: Config

    def load(self, seed: int) -> Corpus:
        return to_corpus(read_files(self.config.path, SUFFIXES, self._read), self.config, seed)

    def _read(self, file: Path) -> RawRows:
        with reading(file):
            raw = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file, self.config.sep)
        if not len(raw.frame):
            raise DataError(f"{shown(file)}: has columns but no rows")
        return raw


def _read_csv(file: Path, sep: str | None) -> RawRows:
    import pandas as pd

    try:
        frame = pd.read_csv(file, sep=sep or ("\t" if ".tsv" in file.name.lower() else ","), low_memory=False)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{shown(file)}: is empty") from error
    except pd.errors.ParserError as error:
        raise DataError(_bad_row(file, str(error))) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{shown(file)}: rows have more values than the header has columns")
    return raw_rows(frame, shown(file), np.arange(2, len(frame) + 2))  # line 1 is the header


def _bad_row(file: Path, message: str) -> str:
    """ "loans.csv:3: ..." from pandas' "Error tokenizing data. C error: Expected 22 fields in line 3, saw 23"."""
    found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message)
    if found:
        return f"{shown(file)}:{found[2]}: {found[3]} values, but the header has {found[1]} columns"
    return f"{shown(file)}: cannot be parsed: {message.splitlines()[0]}"


def _read_parquet(file: Path) -> RawRows:
    import pandas as pd
    import pyarrow

    try:
        return raw_rows(pd.read_parquet(file).reset_index(drop=True), shown(file))
    except (pyarrow.ArrowException, *BAD_NOTES) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{shown(file)}: is not a Parquet file ({reason})") from error
