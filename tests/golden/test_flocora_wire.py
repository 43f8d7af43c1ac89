"""FLoCoRA's byte table (2406.14082; algorithms.md 2.5) from the messages of the real network, in both directions.

The bytes of ``test_flocora_bytes`` come from tensors with the shapes of the paper; these come from ``kind: resnet``, a
job as the server sends it and an update as a bank packs it.
"""

import pytest

from fedsim.codecs import pipeline
from fedsim.core.adapter import map_tensors
from fedsim.core.messages import TrainJob
from fedsim.core.sections import Lora
from fedsim.engine.transport import Downlink, pack, unpack
from fedsim.models.vision import ResNetModel
from fedsim.strategies.base import Outcome
from fedsim.train.values import Trained

FULL = {8: 1_227_594, 18: 11_173_962}


@pytest.mark.parametrize(
    ("depth", "rank", "bits", "ratio"),
    [(8, 32, 32, 4.76), (8, 32, 8, 17.58), (8, 32, 4, 32.39), (8, 32, 2, 55.95), (18, 64, 8, 18.75)],
)
def test_both_directions_cost_what_the_table_says(depth, rank, bits, ratio):
    chain = pipeline([] if bits == 32 else [("affine", {"bits": bits})])
    model = ResNetModel(ResNetModel.Config(depth=depth)).load(Lora(r=rank, lora_alpha=16 * rank), 10)
    adapter = model.new_adapter(0)
    delivery = Downlink(chain, 0).send([TrainJob(0, "bank", adapter)])[0]
    delta = map_tensors(lambda tensor: 0.01 * tensor, adapter.tensors)
    trained = Trained("bank", Outcome(delta, {}, {}), num_examples=1, num_steps=1, spend=None)
    update = unpack(pack(trained, chain, {}, 0)[0], chain)
    assert round(4 * FULL[depth] / update.bytes_up, 2) == ratio
    assert delivery.num_bytes == update.bytes_up


@pytest.mark.parametrize("depth", FULL)
def test_the_whole_network_costs_four_bytes_per_parameter(depth):
    adapter = ResNetModel(ResNetModel.Config(depth=depth, train="full")).load(Lora(), 10).new_adapter(0)
    assert Downlink(pipeline([]), 0).send([TrainJob(0, "bank", adapter)])[0].num_bytes == 4 * FULL[depth]
