"""Data: sources that read rows, and partitioners that say which bank holds them; one line each.

``load(seed)`` of a source gives a ``Corpus``, ``split_banks`` its banks.
"""

from fedsim.core.registry import Registry
from fedsim.data.base import Partitioner, Source
from fedsim.data.digits import Digits
from fedsim.data.hub import Hub
from fedsim.data.image_folder import ImageFolder
from fedsim.data.jsonl import JsonLines
from fedsim.data.loan_book import LoanBook
from fedsim.data.npz import Npz
from fedsim.data.partitioners.by_column import ByColumn
from fedsim.data.partitioners.by_length import ByLength
from fedsim.data.partitioners.by_time import ByTime
from fedsim.data.partitioners.by_topic import ByTopic
from fedsim.data.partitioners.continuous import Continuous
from fedsim.data.partitioners.dirichlet import Dirichlet
from fedsim.data.partitioners.distribution import Distribution
from fedsim.data.partitioners.exponential import Exponential
from fedsim.data.partitioners.file import File
from fedsim.data.partitioners.grouped_by_column import GroupedByColumn
from fedsim.data.partitioners.iid import Iid
from fedsim.data.partitioners.inner_dirichlet import InnerDirichlet
from fedsim.data.partitioners.linear import Linear
from fedsim.data.partitioners.mixture import Mixture
from fedsim.data.partitioners.pathological import Pathological
from fedsim.data.partitioners.shard import Shard
from fedsim.data.partitioners.size import Size
from fedsim.data.partitioners.square import Square
from fedsim.data.split import split_banks
from fedsim.data.table import Table

SOURCES: Registry[Source] = Registry(
    "data source",
    Source,  # type: ignore[type-abstract]
    {
        "digits": Digits,
        "hub": Hub,
        "image_folder": ImageFolder,
        "jsonl": JsonLines,
        "loan_book": LoanBook,
        "npz": Npz,
        "table": Table,
    },
)

PARTITIONERS: Registry[Partitioner] = Registry(
    "partitioner",
    Partitioner,  # type: ignore[type-abstract]
    {
        "by_column": ByColumn,
        "by_length": ByLength,
        "by_time": ByTime,
        "by_topic": ByTopic,
        "continuous": Continuous,
        "dirichlet": Dirichlet,
        "distribution": Distribution,
        "exponential": Exponential,
        "file": File,
        "grouped_by_column": GroupedByColumn,
        "iid": Iid,
        "inner_dirichlet": InnerDirichlet,
        "linear": Linear,
        "mixture": Mixture,
        "pathological": Pathological,
        "shard": Shard,
        "size": Size,
        "square": Square,
    },
)

__all__ = ["PARTITIONERS", "SOURCES", "Partitioner", "Source", "split_banks"]
