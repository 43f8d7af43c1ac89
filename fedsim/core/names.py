"""Other people's names: FinLoRA's flat block is accepted, every other tool's key is answered with ours.

FinLoRA documents its federated and private runs as one flat block (``federated_learning: true``, ``use_dp_lora: true``,
``dp_epsilon``, ..., ``lora_r``, ``quant_bits``, ``num_clients``). ``rewrite`` moves those keys to our sections before
anything is validated, each with its place in the file. Hyphens are accepted for underscores in section and knob names.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from fedsim.core.document import Document
from fedsim.core.errors import Problem
from fedsim.core.strict_yaml import KeyPath, dotted

FLAT: dict[str, KeyPath] = {
    "batch_size": ("train", "batch_size"),
    "dp_delta": ("privacy", "dp_delta"),
    "dp_epsilon": ("privacy", "dp_epsilon"),
    "layers_to_transform": ("lora", "layers_to_transform"),
    "learning_rate": ("train", "lr"),
    "local_epochs": ("train", "local_epochs"),
    "local_steps": ("train", "local_steps"),
    "lora_alpha": ("lora", "lora_alpha"),
    "lora_r": ("lora", "r"),
    "max_grad_norm": ("privacy", "max_grad_norm"),
    "noise_multiplier": ("privacy", "noise_multiplier"),
    "num_clients": ("partition", "num_banks"),
    "quant_bits": ("model", "quant_bits"),
    "target_modules": ("lora", "target_modules"),
}
SWITCHES = ("federated_learning", "use_dp_lora")  # top-level keys that choose instead of setting
DEFAULT_KINDS = {"partition": "iid", "privacy": "dp_sgd"}  # of a section that only flat keys mention

# Ours -> theirs: Flower, FlowerTune, FederatedScope, FedML, OpenFedLLM, pfl-research, PFLlib, FL-bench, fluke, Plato,
# Hugging Face and Opacus.
FOREIGN: dict[str, str] = {
    "client_fraction": "eligible_perc fraction_fit fraction_train join_ratio sample_client_rate",
    "client_fraction (a share of the banks, not their number)": (
        "client_num_per_round clients_per_round cohort_size min_fit_clients min_train_nodes per_round "
        "sample_client_num sample_clients"
    ),
    "data.id": "dataset dataset_id dataset_name",
    "data.path": "data_path dataset_path",
    "evaluate.every": "eval_every evaluate_every freq frequency_of_the_test",
    "lora.layers_to_transform": "lora_layers_to_transform peft_layers_to_transform",
    "lora.lora_alpha": "peft_lora_alpha",
    "lora.r": "lora_rank peft_lora_r rank",
    "lora.target_modules": "lora_target_modules peft_target_modules",
    "lora.use_rslora": "peft_use_rslora",
    "model.dtype": "amp_dtype torch_dtype",
    "model.id": "base_model model_name model_name_or_path",
    "model.max_length": "cutoff_len max_seq_length seq_length seqlen",
    "model.quant_bits": "quantization",
    "model.quant_bits (write 4)": "load_in_4bit",
    "model.quant_bits (write 8)": "load_in_8bit",
    "name": "experiment_name run_name",
    "num_clients": "client_num client_num_in_total n_clients num_supernodes num_users total_clients",
    "num_rounds": (
        "central_num_iterations comm_round communication_rounds global_epoch global_rounds n_rounds num_server_rounds "
        "rounds total_round_num"
    ),
    "partition.alpha": "concentration dirichlet_alpha partition_alpha",
    "partition.kind": "partition_method partitioner splitter",
    "privacy.dp_delta": "central_delta delta target_delta",
    "privacy.dp_epsilon": "central_epsilon epsilon max_epsilon target_epsilon",
    "privacy.max_grad_norm": (
        "central_privacy_clipping_bound clip_norm clipping_norm dp_max_grad_norm l2_norm_clip "
        "max_per_sample_grad_norm w_clip"
    ),
    "privacy.noise_multiplier": "dp_sigma noise_mul sigma",
    "resources.cpus_per_client": "num_cpus",
    "resources.gpus_per_client": "num_gpus",
    "seed": "random_seed",
    "strategy.kind": "algorithm fed_alg federated_optimizer",
    "strategy.mu": "fedprox_mu prox_mu proximal_mu",
    "train.batch_size": "local_batch_size per_device_train_batch_size train_batch_size",
    "train.betas": "adam_beta1 adam_beta2",
    "train.local_epochs": "epochs local_num_epochs num_epochs num_train_epochs",
    "train.local_steps": "local_max_steps local_num_steps local_update_steps max_steps",
    "train.lr": "learning_rate learning_rate_max",
    "train.lr_schedule": "lr_scheduler_type",
    "train.max_rows (rows in one forward pass)": "gradient_accumulation_steps",
    "train.min_lr": "learning_rate_min",
    "train.optimizer": "optim",
}
_OURS = {theirs: ours for ours, names in FOREIGN.items() for theirs in names.split()}


def foreign(name: str) -> str | None:
    """What another tool's key is called here, as a sentence; None for a name that no tool uses."""
    ours = _OURS.get(name.replace("-", "_").lower())
    if ours is None:
        return None
    path, space, note = ours.partition(" (")
    return f"`{name}` is called `{path}` here{space}{note}"


def rewrite(document: Document) -> tuple[Document, list[Problem]]:
    """The document with our names only, and what could not be rewritten (a value given under two names)."""
    draft = _Draft(copy.deepcopy(document.data), dict(document.positions), document)
    for path in list(_hyphenated(draft.data)):
        draft.move(path, (*path[:-1], str(path[-1]).replace("-", "_")))
    draft.apply_switches()
    modules = draft.data.get("target_modules")
    if isinstance(modules, str) and re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)+", modules):
        draft.data["target_modules"] = re.split(r"\s*,\s*", modules)  # FinLoRA: "q_proj,v_proj"
    for name, path in FLAT.items():
        if name in draft.data:
            draft.move((name,), path)
    return Document(draft.data, draft.positions, document.source), draft.problems


def _hyphenated(data: dict[str, Any]) -> list[KeyPath]:
    """Keys of the top level, of sections and of codec entries that are ours with hyphens. Values are not touched."""
    entries: list[tuple[KeyPath, Any]] = [((), data)]
    for section, value in data.items():
        entries.append(((section,), value))
        if isinstance(value, list):
            entries.extend(((section, index), item) for index, item in enumerate(value))
    paths = [(*path, key) for path, entry in entries if isinstance(entry, dict) for key in entry]
    wanted = [path for path in paths if "-" in str(path[-1]) and foreign(str(path[-1])) is None]
    return sorted(wanted, key=len, reverse=True)  # inner keys first, while their path is still valid


@dataclass
class _Draft:
    """A document being rewritten."""

    data: dict[str, Any]
    positions: dict[KeyPath, str]
    document: Document
    problems: list[Problem] = field(default_factory=list)

    def apply_switches(self) -> None:
        for name in SWITCHES:
            if name in self.data and not isinstance(self.data[name], bool):
                self.problems.append(self.document.problem((name,), "expected true or false"))
                del self.data[name]
        if self.data.pop("federated_learning", True) is False:
            message = "fedsim always runs federated; for one model on all rows use strategy: {kind: pooled}"
            self.problems.append(self.document.problem(("federated_learning",), message))
        private = self.data.pop("use_dp_lora", None)
        if private is False:  # FinLoRA's keys beside its own switch that turns them off
            for name in [name for name, path in FLAT.items() if path[0] == "privacy"]:
                self.data.pop(name, None)
        if private is not None:
            self.data["use_dp_lora"] = "dp_sgd" if private else "none"
            self.move(("use_dp_lora",), ("privacy", "kind"))

    def move(self, old: KeyPath, new: KeyPath) -> None:
        """Give a value its new path. Of two values for one path, --set wins over the file; else it is a problem."""
        value, places = self._take(old)
        section = self._section(new, places[()])
        if section is None:
            return  # not a mapping: its own problem, reported by the validation
        if new[-1] in section:
            here, there = places[()], self.positions.get(new, self.document.where(new))
            if here.startswith("--set") == there.startswith("--set"):
                message = f"given twice: {dotted(old)!r} is called {dotted(new)!r} here, which stands at {there}"
                self.problems.append(Problem(here, dotted(old), message))
                return
            if there.startswith("--set"):
                return
            self._take(new)
        section[str(new[-1])] = value
        self.positions |= {(*new, *rest): place for rest, place in places.items()}

    def _take(self, path: KeyPath) -> tuple[Any, dict[KeyPath, str]]:
        """Remove a value; its places by the path below it."""
        length = len(path)
        places = {key[length:]: self.positions.pop(key) for key in list(self.positions) if key[:length] == path}
        parent: Any = self.data
        for part in path[:-1]:
            parent = parent[part]
        return parent.pop(path[-1]), {(): self.document.where(path), **places}

    def _section(self, path: KeyPath, place: str) -> dict[str, Any] | None:
        """The mapping that holds a path, created if nothing is there; None if something else is."""
        entry: Any = self.data
        for part in path[:-1]:
            if isinstance(entry, dict) and part not in entry:
                implied = part in DEFAULT_KINDS and path[-1] != "kind"
                entry[str(part)] = {"kind": DEFAULT_KINDS[str(part)]} if implied else {}
                self.positions[path[:-1]] = place
            entry = entry[part]
        return entry if isinstance(entry, dict) else None
