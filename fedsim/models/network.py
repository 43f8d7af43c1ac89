"""Load, quantise and adapt a network: transformers loads, bitsandbytes quantises, PEFT says what is adapted.

PEFT's own layers are then replaced by ours, which hold a bank axis; they are kept aside because PEFT also decides the
initial values. Everything here runs once per actor.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fedsim.core.adapter import AdapterState
from fedsim.core.errors import ModelError, suggest
from fedsim.core.sections import Lora
from fedsim.models.base import seeded_torch
from fedsim.models.libraries import quiet_libraries
from fedsim.models.lora import CohortDense, CohortLinear, Running, replace_module

ADAPTER = "default"
HEADS = ("classifier", "score", "pre_classifier", "classification_head", "pooler", "lm_head")  # never quantised


def quantization(bits: int | None, dtype: torch.dtype) -> Any:
    """bitsandbytes settings: nf4, or LLM.int8() without outlier columns.

    The outlier threshold is off because outlier columns are chosen over the whole batch: one row's output would then
    depend on the other rows, and a clipped row gradient would no longer bound that row's influence.
    """
    if bits is None:
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_threshold=0.0,
        llm_int8_skip_modules=list(HEADS),
    )


def keep_trainable(network: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16 at the first evaluation.

    The repacked product has no backward: every later LoRA gradient would silently be None.
    """
    import bitsandbytes

    for module in network.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def peft_config(lora: Lora, task: str, target_modules: list[str] | str | None = None) -> Any:
    """The LoRA block as PEFT's own configuration."""
    quiet_libraries()  # importing peft imports bitsandbytes, which warns of a kernel package that no one needs
    from peft import LoraConfig, TaskType

    targets = target_modules or lora.target_modules
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        target_modules=targets if targets is None or isinstance(targets, str) else list(targets),
        layers_to_transform=None if target_modules or not lora.layers_to_transform else list(lora.layers_to_transform),
        use_rslora=lora.use_rslora,
        init_lora_weights=lora.init_lora_weights,
        task_type=TaskType.CAUSAL_LM if task == "causal_lm" else TaskType.SEQ_CLS,
    )


def check_targets(network: nn.Module, lora: Lora, model_id: str) -> None:
    """Every name of ``lora.target_modules`` must stand for linear layers. ModelError says which does not.

    PEFT takes a list of which one name matches; the others, misspelt, would silently not be trained.
    """
    from transformers.pytorch_utils import Conv1D

    targets = lora.target_modules
    if targets is None or targets == "all-linear":
        return
    kinds = {name: type(module) for name, module in network.named_modules()}
    linear = {name for name, kind in kinds.items() if issubclass(kind, nn.Linear | Conv1D)}
    for target in [targets] if isinstance(targets, str) else targets:
        matched = [name for name in kinds if _matches(name, target, is_pattern=isinstance(targets, str))]
        if not matched:
            raise _bad_target(
                f"{target!r} matches nothing in model {model_id!r}.{suggest(target, _ends(linear))}", linear
            )
        for name in matched:
            if name not in linear:
                found = f"{name} ({kinds[name].__name__})"
                raise _bad_target(f"{target!r} matches {found} of model {model_id!r}, no linear layer.", linear)


def _matches(name: str, target: str, is_pattern: bool) -> bool:
    """PEFT's rule: a name of a list is a module's whole name or its end, a text alone is a regular expression."""
    return bool(re.fullmatch(target, name)) if is_pattern else name == target or name.endswith(f".{target}")


def _ends(names: Iterable[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def _bad_target(message: str, linear: Iterable[str]) -> ModelError:
    return ModelError(f"{message} Its linear layers are called: {', '.join(_ends(linear))}", "lora.target_modules")


def _bad_layers(lora: Lora, model_id: str, adapted: Iterable[int]) -> ModelError:
    """PEFT passes over numbers that no layer has."""
    missing = ", ".join(str(number) for number in sorted(set(lora.layers_to_transform or ()) - set(adapted)))
    return ModelError(
        f"model {model_id!r} has no layer {missing} with modules of lora.target_modules; layers count from 0",
        "lora.layers_to_transform",
    )


class Adapted:
    """A frozen network whose adapted layers are ours, with PEFT's layers kept for initial values and names."""

    def __init__(self, network: nn.Module, lora: Lora, task: str, model_id: str) -> None:
        from peft import get_peft_model

        network.requires_grad_(False)
        check_targets(network, lora, model_id)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PEFT reads names that transformers is renaming
                warnings.filterwarnings("ignore", "fan_in_fan_out")  # it finds by itself that GPT-2 is transposed
                wrapped = get_peft_model(network, peft_config(lora, task))
        except ValueError as error:
            if lora.layers_to_transform:
                raise _bad_layers(lora, model_id, ()) from error
            linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
            raise _bad_target(f"PEFT does not know which layers of model {model_id!r} to adapt.", linear) from error
        self.lora, self.running = lora, Running()
        self.network: nn.Module = wrapped.get_base_model()
        self.layers = self._replace_adapted()
        adapted = {int(number) for name in self.layers for number in re.findall(r"\.(\d+)\.", name)[:1]}
        if not set(lora.layers_to_transform or ()) <= adapted:
            raise _bad_layers(lora, model_id, adapted)
        self.heads = self._replace_heads()
        self.scaling = float(next(iter(self.layers.values())).scaling[ADAPTER])

    def _replace_adapted(self) -> dict[str, Any]:
        from peft.tuners.lora import LoraLayer

        layers = {name: m for name, m in self.network.named_modules() if isinstance(m, LoraLayer)}
        for name, layer in layers.items():
            replace_module(self.network, name, CohortLinear(layer.get_base_layer(), name, self.running))
        return layers

    def _replace_heads(self) -> dict[str, nn.Linear]:
        """Linear layers under PEFT's ``modules_to_save`` are the task head: trained whole, once per bank."""
        from peft.utils import ModulesToSaveWrapper

        wrappers = {n: m for n, m in self.network.named_modules() if isinstance(m, ModulesToSaveWrapper)}
        heads: dict[str, nn.Linear] = {}
        for name, wrapper in wrappers.items():
            original = wrapper.original_module
            replace_module(self.network, name, original)
            for inner, module in list(original.named_modules()):
                if isinstance(module, nn.Linear):
                    path = f"{name}.{inner}" if inner else name
                    heads[path] = module
                    replace_module(self.network, path, CohortDense(path, self.running))
        return heads

    def new_adapter(self, seed: int) -> AdapterState:
        """PEFT's and transformers' own initial values under a derived seed, in module order."""
        tensors: dict[str, torch.Tensor] = {}
        with seeded_torch(seed), torch.no_grad():
            for name, layer in self.layers.items():
                layer.reset_lora_parameters(ADAPTER, self.lora.init_lora_weights)
                tensors[f"{name}.A"] = layer.lora_A[ADAPTER].weight.detach().float().cpu().clone()
                tensors[f"{name}.B"] = layer.lora_B[ADAPTER].weight.detach().float().cpu().clone()
            std = getattr(self.network.config, "initializer_range", 0.02)
            for name, head in self.heads.items():
                tensors[f"head.{name}.weight"] = torch.empty(head.weight.shape).normal_(0.0, std)
                if head.bias is not None:
                    tensors[f"head.{name}.bias"] = torch.zeros(head.bias.shape)
        return AdapterState(tensors, self.lora.r, self.scaling)

    def outline(self) -> AdapterState:
        """An adapter of the right shapes, also where the network is on torch's meta device."""
        draws = torch.Generator().manual_seed(0)
        tensors: dict[str, torch.Tensor] = {}
        for name, layer in self.layers.items():
            a, b = layer.lora_A[ADAPTER].weight.shape, layer.lora_B[ADAPTER].weight.shape
            tensors[f"{name}.A"] = torch.randn(a, generator=draws, device="cpu")
            tensors[f"{name}.B"] = torch.zeros(b, device="cpu")
        for name, head in self.heads.items():
            tensors[f"head.{name}.weight"] = torch.randn(head.weight.shape, generator=draws, device="cpu")
            if head.bias is not None:
                tensors[f"head.{name}.bias"] = torch.zeros(head.bias.shape, device="cpu")
        return AdapterState(tensors, self.lora.r, self.scaling)


def weight_bytes(network: nn.Module, quant_bits: int | None, width: int) -> int:
    """Bytes of the frozen weights, of which an unquantised value takes ``width``.

    bitsandbytes keeps a float32 scale per 64 values of 4 bits, and one per row of 8 bits.
    """
    quantised = {
        module.weight: module.weight.shape
        for name, module in network.named_modules()
        if quant_bits and isinstance(module, nn.Linear) and not set(name.split(".")) & set(HEADS)
    }
    total = 0
    for weight in network.parameters():
        if weight not in quantised:
            total += weight.numel() * width
        elif quant_bits == 4:
            total += weight.numel() // 2 + 4 * -(-weight.numel() // 64)
        else:
            total += weight.numel() + 4 * quantised[weight][0]
    return total
