"""Any causal LM or encoder that transformers can load: a Hub id or a local folder, quantised or not."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedsim.core.adapter import AdapterState, stack
from fedsim.core.errors import ModelError
from fedsim.core.registry import Config as PluginConfig
from fedsim.core.rows import Corpus, TokenRows
from fedsim.core.sections import Lora
from fedsim.models.base import BaseModel, CohortModel, Outline

if TYPE_CHECKING:
    from fedsim.models.network import Adapted

PACKAGE = "package:"
TEXTS_AT_A_TIME = 4096
SHORT = 128  # tokens up to which attention that holds its scores is no slower on a CPU than torch's, which does not
Task = Literal["causal_lm", "sequence_classification"]


class BaseConfig(PluginConfig):
    """Knobs that every language model has."""

    quant_bits: Literal[4, 8] | None = Field(None, description="4 (nf4) or 8 (int8) bits per base weight; null: none")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32", description="type of the base's unquantised weights; auto: bfloat16 where the hardware multiplies it"
    )
    task: Task = Field("causal_lm", description="answer a prompt, or classify a text with a trained head")
    max_length: int = Field(512, ge=8, description="longest row, in tokens; longer prompts are cut")


class HuggingFace(BaseModel):
    """``kind: hf``."""

    class Config(BaseConfig):
        id: str = Field(description="Hub id, a folder relative to the scenario file, or package:NAME/FOLDER")
        revision: str | None = Field(None, description="commit hash of a Hub model")

    config: Any
    device_map: ClassVar[dict[str, str]] = {"cpu": "cpu", "cuda": "cuda:0"}

    def __init__(self, config: Any) -> None:
        """``auto`` is decided here, where the run is built, so that all its actors decide alike."""
        self.asked = config.dtype
        if config.dtype == "auto":
            config = config.model_copy(update={"dtype": "bfloat16" if multiplies_bfloat16() else "float32"})
        super().__init__(config)

    def notes(self) -> list[str]:
        if self.asked == "auto":
            return [f"Base model in {self.config.dtype} on this machine: another may give other digits."]
        if self.config.dtype == "bfloat16" and not multiplies_bfloat16():
            return ["This CPU emulates bfloat16, many times slower than float32: set model.dtype to auto or float32."]
        return []

    @property
    def source(self) -> str:
        return package_folder(self.config.id) if self.config.id.startswith(PACKAGE) else str(self.config.id)

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a Hub id."""
        path = Path(self.source)
        if path.is_dir():
            return path
        if self.source.startswith((".", "/", "~")):
            raise ModelError(f"no model folder {self.source!r}")
        return None

    def _arguments(self, num_labels: int = 0) -> dict[str, Any]:
        """Of transformers' ``from_pretrained``."""
        revision = getattr(self.config, "revision", None)
        arguments: dict[str, Any] = {"trust_remote_code": False, "local_files_only": self.folder is not None}
        if self.config.task == "sequence_classification" and num_labels:
            arguments["num_labels"] = num_labels
        return arguments | ({"revision": revision} if revision else {})

    def _require_files(self) -> None:
        """ModelError when the model is not where it should be: told before transformers looks for it, and sooner."""
        from fedsim.models.libraries import check_folder, require_hub

        if self.folder is not None:
            check_folder(self.folder)
        else:
            require_hub(self.source, getattr(self.config, "revision", None))

    def _auto_class(self) -> Any:
        import transformers

        if self.config.task == "causal_lm":
            return transformers.AutoModelForCausalLM
        return transformers.AutoModelForSequenceClassification

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        from fedsim.models.libraries import as_model_errors, quiet_libraries

        quiet_libraries()
        self._require_files()
        with as_model_errors(self.source):
            tokenizer = AutoTokenizer.from_pretrained(self.source, **self._arguments())
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.config.model_dump(), sort_keys=True).encode())
        if self.folder is not None:
            self._require_files()
            for file in sorted(self.folder.glob("*token*")) + sorted(self.folder.glob("vocab*")):
                digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    def encode(self, corpus: Corpus) -> TokenRows:
        if corpus.images is not None:
            raise ModelError(f"model {self.source!r} reads text, but the data are images; use model kind resnet")
        tokenizer = self._tokenizer()
        limit = int(min(self.config.max_length, tokenizer.model_max_length))
        if self.config.task == "sequence_classification":
            rows = tokenizer(list(corpus.prompts), truncation=True, max_length=limit)["input_ids"]
            return ragged(rows, [len(row) for row in rows], corpus, ())
        words = [" " + word for word in (corpus.label_words or corpus.answers)]
        answers = token_ids(tokenizer, words, add_special_tokens=False)
        if not corpus.label_words and tokenizer.eos_token_id is not None:
            answers = [[*answer, tokenizer.eos_token_id] for answer in answers]
        for word, answer in zip(words, answers, strict=True):
            if not answer:
                raise ModelError(f"the tokenizer of {self.source!r} gives no token for the answer {word.strip()!r}")
        prompts = token_ids(tokenizer, corpus.prompts)
        eos = tokenizer.eos_token_id  # some tokenizers append it to every text: not before an answer
        rows, starts = [], []
        for number, prompt in enumerate(prompts):
            answer = answers[corpus.labels[number]] if corpus.label_words else answers[number]
            prompt = prompt[:-1] if len(prompt) > 1 and prompt[-1] == eos else prompt
            answer = answer[: limit - 1]
            prompt = prompt[max(0, len(prompt) + len(answer) - limit) :]  # the cue before the answer stays
            rows.append([*prompt, *answer])
            starts.append(len(prompt))
        return ragged(rows, starts, corpus, tuple(map(tuple, answers)) if corpus.label_words else ())

    def check(self, lora: Lora, num_labels: int) -> None:
        self._on_meta(lora, num_labels)

    def outline(self, lora: Lora, num_labels: int) -> Outline:
        import torch

        from fedsim.models.network import weight_bytes

        adapted = self._on_meta(lora, num_labels)
        width = getattr(torch, self.config.dtype).itemsize
        return Outline(adapted.outline(), weight_bytes(adapted.network, self.config.quant_bits, width))

    def _on_meta(self, lora: Lora, num_labels: int) -> Adapted:
        """The network is built and adapted as in ``load``, but on torch's meta device, where weights take no memory."""
        import torch
        import transformers

        from fedsim.models.libraries import as_model_errors, quiet_libraries
        from fedsim.models.network import Adapted

        quiet_libraries()
        self._require_files()
        if self.config.task == "sequence_classification" and not num_labels:
            raise ModelError("sequence_classification needs labels, but the answers are free text", "model.task")
        with as_model_errors(self.source):
            config = transformers.AutoConfig.from_pretrained(self.source, **self._arguments(num_labels))
            with torch.device("meta"):
                network = self._auto_class().from_config(config)
        with torch.device("meta"):
            return Adapted(network, lora, self.config.task, self.source)

    def load(self, lora: Lora, num_labels: int) -> CohortModel:
        from fedsim.models.libraries import quiet_libraries
        from fedsim.models.network import Adapted, keep_trainable
        from fedsim.models.tasks import CausalLM, SequenceClassification

        quiet_libraries()
        self._require_files()
        tokenizer = self._tokenizer()
        network = self._network(self._auto_class(), num_labels)
        network.config.pad_token_id = tokenizer.pad_token_id
        if self.config.quant_bits == 4:
            keep_trainable(network)
        adapted = Adapted(network, lora, self.config.task, self.source)
        task = CausalLM if self.config.task == "causal_lm" else SequenceClassification
        return task(adapted, tokenizer)

    def _network(self, auto_class: Any, num_labels: int) -> Any:
        """The frozen weights as the configuration asks for them."""
        import torch
        import transformers

        from fedsim.models.libraries import as_model_errors
        from fedsim.models.network import quantization
        from fedsim.models.shortcuts import ATTENTION, MODEL_TYPES, register, shorten

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, self.config.dtype)
        arguments = self._arguments(num_labels)
        register()
        with as_model_errors(self.source):
            if device == "cpu" and (dtype == torch.bfloat16 or self.config.max_length <= SHORT):
                kind = transformers.AutoConfig.from_pretrained(self.source, **arguments).model_type
                arguments["attn_implementation"] = ATTENTION if kind in MODEL_TYPES else "eager"
            network = auto_class.from_pretrained(
                self.source,
                dtype=dtype,
                quantization_config=quantization(self.config.quant_bits, dtype),
                device_map=self.device_map[device],
                use_safetensors=True,
                **arguments,
            )
        network.eval()  # the base's dropout is off; the adapters have none
        shorten(network)
        return network

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        from transformers import AutoModel

        from fedsim.models.embedding import mean_pooled

        tokenizer = self._tokenizer()
        limit = int(min(self.config.max_length, tokenizer.model_max_length))
        rows = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return mean_pooled(self._network(AutoModel, 0), rows, tokenizer.pad_token_id or 0)

    def weights_mark(self) -> str:
        files = [] if self.folder is None else sorted(self.folder.glob("*.safetensors"))
        return repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])

    def export(self, folder: Path, adapter: AdapterState, frozen: Sequence[AdapterState], lora: Lora) -> None:
        from safetensors.torch import save_file

        from fedsim.core.adapter import factor, modules
        from fedsim.models.network import peft_config

        whole = stack([*frozen, fold_middle(adapter)], [1.0] * (len(frozen) + 1))
        names = modules(whole.tensors)
        config = peft_config(lora, self.config.task, names)
        config.r, config.lora_alpha, config.use_rslora, config.inference_mode = whole.rank, whole.rank, False, True
        config.base_model_name_or_path = self.source
        heads = {name: t for name, t in adapter.tensors.items() if factor(name) == "head"}
        if heads:
            config.modules_to_save = sorted({name.split(".")[1] for name in heads})
        tensors = {f"base_model.model.{m}.lora_{f}.weight": whole.tensors[f"{m}.{f}"] for m in names for f in "AB"}
        tensors |= {f"base_model.model.{name.removeprefix('head.')}": tensor for name, tensor in heads.items()}
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, str(folder / "adapter_model.safetensors"))


def multiplies_bfloat16() -> bool:
    """Whether a GPU or this CPU (AVX512-BF16, AMX) multiplies bfloat16; other CPUs emulate it, at 1/50 of the speed."""
    import torch

    able = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def package_folder(reference: str) -> str:
    """The folder of ``package:NAME/FOLDER`` inside an installed Python package that carries a model."""
    name, _, inside = reference.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {reference!r}: the Python package {name!r} is not installed")
    return str(Path(spec.submodule_search_locations[0]) / inside)


def fold_middle(adapter: AdapterState) -> AdapterState:
    """An adapter with a middle factor R as a plain one: B <- B R."""
    folded = {}
    for name, tensor in adapter.tensors.items():
        if name.endswith(".R") and not name.startswith("head."):
            continue
        middle = adapter.tensors.get(name[:-2] + ".R") if name.endswith(".B") else None
        folded[name] = tensor if middle is None else tensor @ middle
    return AdapterState(folded, adapter.rank, adapter.scaling)


def token_ids(tokenizer: Any, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
    """Of each text. What else a tokenizer notes of every token takes kilobytes per text: freed after a few texts."""
    found: list[list[int]] = []
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        part = list(texts[start : start + TEXTS_AT_A_TIME])
        found += tokenizer(part, add_special_tokens=add_special_tokens)["input_ids"]
    return found


def ragged(rows: list[list[int]], starts: list[int], corpus: Corpus, words: tuple[tuple[int, ...], ...]) -> TokenRows:
    """Lists of token ids as one flat buffer."""
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    offsets = np.concatenate([[0], lengths.cumsum()])
    flat = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(offsets[-1]))
    return TokenRows(flat, offsets, np.array(starts, dtype=np.int32), corpus.labels.astype(np.int64), words)
