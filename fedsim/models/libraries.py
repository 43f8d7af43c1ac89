"""Where the weights and libraries of a language model come from, and what is wrong with them in one line.

Everything here runs once per process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import torch

from fedsim.core.errors import ModelError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "*.model", "vocab.*")
HUB_TIMEOUT_S = 5.0


def quiet_libraries() -> None:
    """Progress bars, load reports and a warning per 8-bit product are not for a simulator's log."""
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if "bitsandbytes" not in sys.modules:
        with _nothing_compiled():
            import bitsandbytes  # noqa: F401  as PEFT does


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """bitsandbytes decorates functions of its fallback backend with ``torch.compile``.

    That loads torch's whole compiler, 40 MB and a fifth of an actor's start, for functions that neither a CPU nor a
    CUDA device calls.
    """
    compile_ = torch.compile
    torch.compile = lambda function, **_: function  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_


@contextmanager
def as_model_errors(model_id: str) -> Iterator[None]:
    """transformers reports bad models by many exception types; the user gets one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "ignore_mismatched_sizes" in reason:
            reason = "its weights do not have the shapes that config.json says"
        raise ModelError(f"model {model_id!r} cannot be loaded: {reason}") from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        # the tokenizers library has no errors of its own
        raise ModelError(f"the tokenizer of {model_id!r} cannot be loaded: {error}") from error


def check_folder(folder: Path) -> None:
    """A local model folder must hold a config, a tokenizer and safetensors weights. ModelError says what is missing."""
    from safetensors import SafetensorError, safe_open

    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder {folder} has no config.json; give a folder written by save_pretrained")
    if not any(file for pattern in TOKENIZERS for file in folder.glob(pattern)):
        raise ModelError(f"model folder {folder} has no tokenizer ({', '.join(TOKENIZERS)}); save it there too")
    for file in sorted(folder.iterdir()):
        if not (file.is_file() or file.is_dir()):
            raise ModelError(f"model folder {folder}: {file.name} is not a regular file; copy the model again")
    weights = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    if not weights:
        pickled = any(folder.glob("*.bin"))
        remedy = (
            "convert its .bin weights with save_pretrained(safe_serialization=True)" if pickled else "is it complete?"
        )
        raise ModelError(f"model folder {folder} has no *.safetensors weights; {remedy}")
    for file in weights:
        try:
            safe_open(file, "pt")  # reads the header and compares the file's size with it
        except SafetensorError as error:
            raise ModelError(f"model weights {file} are damaged ({error}); copy or download them again") from error


def require_hub(model_id: str, revision: str | None) -> None:
    """A model of the Hub must be in the local cache, or the Hub must answer. ModelError when neither is so.

    The Hub is asked once; transformers would ask for a minute.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(model_id, "config.json", revision=revision), str):
            return
    except HFValidationError as error:
        raise ModelError(f"{model_id!r} is neither a folder nor a name of the Hub (owner/name)") from error
    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"model {model_id!r} is not on this machine, and HF_HUB_OFFLINE is set; give a folder")
    try:
        urlopen(constants.ENDPOINT, timeout=HUB_TIMEOUT_S).close()
    except HTTPError:
        return  # it answers; what it has to say is for transformers
    except OSError as error:
        raise ModelError(
            f"model {model_id!r} is not on this machine, and {constants.ENDPOINT} cannot be reached; "
            "give a folder, download it first, or take {kind: embedded}, which ships with fedsim"
        ) from error
