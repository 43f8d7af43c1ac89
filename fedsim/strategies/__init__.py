"""Federated methods, one file each; this dict is the only other line a new method needs."""

from fedsim.core.registry import Registry
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Sheet, Strategy
from fedsim.strategies.fdlora import FDLoRA
from fedsim.strategies.fedadagrad import FedAdagrad
from fedsim.strategies.fedadam import FedAdam
from fedsim.strategies.fedavg import FedAvg
from fedsim.strategies.fedavgm import FedAvgM
from fedsim.strategies.fedbuff import FedBuff
from fedsim.strategies.fedex_lora import FedExLoRA
from fedsim.strategies.fedmedian import FedMedian
from fedsim.strategies.fedprox import FedProx
from fedsim.strategies.fedsa_lora import FedSALoRA
from fedsim.strategies.fedsb import FedSB
from fedsim.strategies.fedsvd import FedSVD
from fedsim.strategies.fedyogi import FedYogi
from fedsim.strategies.ffa_lora import FFALoRA
from fedsim.strategies.flasc import FLASC
from fedsim.strategies.flexlora import FlexLoRA
from fedsim.strategies.flora import FLoRA
from fedsim.strategies.hetlora import HetLoRA
from fedsim.strategies.local import Local
from fedsim.strategies.lora_a2 import LoRAA2
from fedsim.strategies.lora_fair import LoRAFAIR
from fedsim.strategies.pooled import Pooled
from fedsim.strategies.rfa import RFA
from fedsim.strategies.rolora import RoLoRA
from fedsim.strategies.scaffold import Scaffold
from fedsim.strategies.zero_shot import ZeroShot

STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    Strategy,  # type: ignore[type-abstract]
    {
        "fdlora": FDLoRA,
        "fedadagrad": FedAdagrad,
        "fedadam": FedAdam,
        "fedavg": FedAvg,
        "fedavgm": FedAvgM,
        "fedbuff": FedBuff,
        "fedex_lora": FedExLoRA,
        "fedmedian": FedMedian,
        "fedprox": FedProx,
        "fedsa_lora": FedSALoRA,
        "fedsb": FedSB,
        "fedsvd": FedSVD,
        "fedyogi": FedYogi,
        "ffa_lora": FFALoRA,
        "flasc": FLASC,
        "flexlora": FlexLoRA,
        "flora": FLoRA,
        "hetlora": HetLoRA,
        "local": Local,
        "lora_a2": LoRAA2,
        "lora_fair": LoRAFAIR,
        "pooled": Pooled,
        "rfa": RFA,
        "rolora": RoLoRA,
        "scaffold": Scaffold,
        "zero_shot": ZeroShot,
    },
)

__all__ = ["STRATEGIES", "LocalContext", "LocalRule", "Outcome", "Sheet", "Strategy"]
