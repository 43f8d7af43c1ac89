"""The split of an earlier run, from the ``split.json`` of its directory: the same banks with the same rows.

For other methods, seeds and models on the very same banks. The rows must be those that the split was made for: the same
prompts and answers in the same order with the same test rows; with ``test: {fraction: ...}`` or ``max_rows`` these
depend on the seed.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.core.regular import read_regular
from fedsim.core.rows import Corpus
from fedsim.data.base import Columns, Partitioner, Split, num_rows
from fedsim.data.saved import fingerprint


class File(Partitioner):
    drops = "rows that the file gives to no bank"

    class Config(registry.Config):
        path: str = Field(min_length=1, description="The split.json of a run directory.")

    config: Config

    @cached_property
    def content(self) -> dict[str, Any]:
        path = Path(self.config.path)
        try:
            content = json.loads(read_regular(path).decode())
        except OSError as error:
            raise DataError(f"cannot read split {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise DataError(f"split {path} is not JSON: {error}") from error
        if not isinstance(content, dict) or not {"fingerprint", "num_rows", "rows"} <= set(content):
            raise DataError(f"split {path} has no rows; take the split.json that a run leaves")
        return content

    def require(self, corpus: Corpus) -> None:
        if self.content["fingerprint"] != fingerprint(corpus):
            raise DataError(
                f"split {self.config.path} was made for other rows ({self.content['num_rows']} there, {len(corpus)} "
                "here); give the data, the template, the test rows and, if they are drawn, the seed of that run"
            )

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        if self.content["num_rows"] != num_rows(columns):
            raise DataError(
                f"split {self.config.path} is one of {self.content['num_rows']} rows, but there are {num_rows(columns)}"
            )
        try:
            return {str(name): np.array(rows, dtype=np.int64) for name, rows in self.content["rows"].items()}
        except (AttributeError, ValueError, TypeError) as error:
            raise DataError(f"split {self.config.path}: rows must be lists of row numbers by bank ({error})") from error
