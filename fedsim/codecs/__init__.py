"""What messages look like on the wire, one stage per file; this dict is the only other line that a new stage needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.codecs.affine import Affine
from fedsim.codecs.base import Codec, Payload, Sparsifier, Stage, ValueCodec
from fedsim.codecs.bfloat16 import BFloat16
from fedsim.codecs.float32 import Float32
from fedsim.codecs.qsgd import QSGD
from fedsim.codecs.randk import RandK
from fedsim.codecs.sparse import Sparse
from fedsim.codecs.topk import TopK
from fedsim.core.registry import Registry

CODECS: Registry[Stage] = Registry(
    "codec",
    Stage,  # type: ignore[type-abstract]
    {
        "affine": Affine,
        "bfloat16": BFloat16,
        "float32": Float32,
        "qsgd": QSGD,
        "randk": RandK,
        "sparse": Sparse,
        "topk": TopK,
    },
)


def pipeline(specs: Sequence[tuple[str, Mapping[str, Any]]]) -> Codec:
    """The codec of one direction from (kind, knobs) pairs: any sparsifiers, then at most one value codec.

    Without a value codec values travel as float32, so ``[]`` is plain float32. Errors: KeyError for an unknown kind,
    ValueError for a chain in the wrong order, pydantic's ValidationError (a ValueError) for bad knobs.
    """
    stages = [CODECS.create(kind, knobs) for kind, knobs in specs]
    values = stages.pop() if stages and not isinstance(stages[-1], Sparsifier) else Float32(Float32.Config())
    sparsifiers = [stage for stage in stages if isinstance(stage, Sparsifier)]
    if len(sparsifiers) < len(stages) or not isinstance(values, ValueCodec):
        chain = ", ".join(kind for kind, _ in specs)
        known = ", ".join(kind for kind, cls in CODECS.items() if issubclass(cls, ValueCodec))
        raise ValueError(f"codecs [{chain}]: only the last may be a value codec ({known}); put sparsifiers before it")
    return Codec(sparsifiers, values)


__all__ = ["CODECS", "Codec", "Payload", "Sparsifier", "Stage", "ValueCodec", "pipeline"]
