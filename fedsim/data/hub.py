"""A data set of the Hugging Face Hub, or one saved by ``datasets`` in a local folder.

All its splits are read, one after the other, and the column ``split`` says which one a row is from (unless the data set
has such a column). Without ``test`` in the scenario, the split called "test" holds the test rows. Class labels are read
by their names, not by their numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data.base import Source
from fedsim.data.files import RawRows, concatenate, raw_rows
from fedsim.data.rows import HeldOut, RowsConfig, to_corpus

if TYPE_CHECKING:
    import datasets


class Hub(Source):
    """``load_dataset`` (Hub id, or a local folder of data files) or ``load_from_disk`` (a saved data set)."""

    class Config(RowsConfig):
        id: str = Field(min_length=1, description="Hub id like 'owner/name', or the absolute path of a local folder.")
        subset: str | None = Field(default=None, description="The data set's configuration, where it has several.")
        revision: str | None = Field(
            default=None, description="Commit, tag or branch; a commit makes the run repeatable."
        )

    config: Config

    def load(self, seed: int) -> Corpus:
        parts = [_raw(data, f"{self.config.id}[{split}]", str(split)) for split, data in self._splits().items()]
        config = self.config
        if config.test is None and any(part.frame["split"].eq("test").any() for part in parts):
            config = config.model_copy(update={"test": HeldOut(column="split", value="test")})
        return to_corpus(concatenate(parts), config, seed)

    def _splits(self) -> dict[str, datasets.Dataset]:
        import datasets

        config = self.config
        try:
            if (Path(config.id) / "dataset_dict.json").exists() or (Path(config.id) / "state.json").exists():
                loaded = datasets.load_from_disk(config.id)
            else:
                loaded = datasets.load_dataset(config.id, config.subset, revision=config.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"data set {config.id!r} cannot be loaded: {reason}") from error
        return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _raw(data: datasets.Dataset, name: str, split: str) -> RawRows:
    import datasets

    frame = data.to_pandas().reset_index(drop=True)
    for column, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            numbers = frame[column].fillna(-1).astype(int)
            frame[column] = [feature.names[number] if number >= 0 else None for number in numbers]
    if "split" not in frame:
        frame["split"] = split
    return raw_rows(frame, name)
