"""Which registry each plug-in entry of a scenario is looked up in. The one place that imports them all."""

from collections.abc import Mapping
from typing import Any

from fedsim.codecs import CODECS
from fedsim.core.registry import Registry
from fedsim.data import PARTITIONERS, SOURCES
from fedsim.models import MODELS
from fedsim.privacy import MECHANISMS
from fedsim.secagg import PROTOCOLS
from fedsim.strategies import STRATEGIES

Families = Mapping[str, Registry[Any]]

FAMILIES: Families = {
    "data": SOURCES,
    "partition": PARTITIONERS,
    "model": MODELS,
    "privacy": MECHANISMS,
    "strategy": STRATEGIES,
    "upload": CODECS,
    "download": CODECS,
    "secure_aggregation": PROTOCOLS,
}
