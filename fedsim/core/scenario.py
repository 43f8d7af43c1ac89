"""What a scenario file says, as frozen values. Descriptions give the units; no key is without an effect.

A plug-in entry is ``{kind: name, **knobs}``. Its knobs are checked by ``fedsim.build`` against the ``Config`` next to
the code that reads them, because this layer knows no plug-ins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsim.core.sections import Audit, Evaluate, Failures, Joins, Listed, Lora, Resources, Section, Train

Baseline = Literal["zero_shot", "local", "pooled"]

# Knobs of these entries that name a file or folder; a scenario's identity does not depend on where these lie.
PATH_KNOBS = (("data", "path"), ("data", "id"), ("partition", "path"), ("model", "path"), ("model", "id"))


class Plugin(BaseModel):
    """A plug-in by name, with its knobs as the file gives them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = Field(description="registered name, or my_package.module:Class")

    @model_validator(mode="before")
    @classmethod
    def _refuse_bare_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f'expected mapping, got string "{value}"; write {{kind: {value}}}')
        return value

    @property
    def knobs(self) -> dict[str, Any]:
        """Everything but ``kind``."""
        return dict(self.model_extra or {})


class Scenario(Section):
    """One federated run."""

    name: str = Field(
        default="scenario",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="names the run directory; default: the file's name",
    )
    seed: int = Field(default=0, ge=0, description="every random draw derives from it")
    num_rounds: int = Field(ge=1, description="rounds of training")
    client_fraction: float = Field(default=1.0, gt=0, le=1, description="share of the banks that take part in a round")
    data: Plugin = Field(description="where the rows come from")
    partition: Plugin = Field(default=Plugin(kind="iid"), description="which bank holds which rows")
    joins: Joins | None = Field(
        default=None, description="banks that join late; null: all are there from the first round"
    )
    model: Plugin = Field(description="the frozen base model")
    lora: Lora = Field(default=Lora(), description="the adapter that is trained")
    train: Train = Field(default=Train(), description="local training")
    privacy: Plugin = Field(default=Plugin(kind="none"), description="how banks protect their rows")
    strategy: Plugin = Field(default=Plugin(kind="fedavg"), description="the federated method")
    upload: Annotated[tuple[Plugin, ...], Field(strict=False)] = Field(
        default=(), description="codecs from bank to server"
    )
    download: Annotated[tuple[Plugin, ...], Field(strict=False)] = Field(
        default=(), description="codecs from server to bank"
    )
    secure_aggregation: Plugin = Field(
        default=Plugin(kind="none"), description="how updates are summed so that the server sees none of them"
    )
    evaluate: Evaluate = Field(default=Evaluate(), description="scores on test rows")
    audit: Audit | None = Field(default=None, description="attack the run; null: no attack, and every row trains")
    baselines: Listed[Baseline] = Field(
        default=(), description="also run for comparison, with the same number of steps"
    )
    resources: Resources = Field(default=Resources(), description="what is reserved from Ray")
    failures: Failures = Field(default=Failures(), description="what follows when a bank's work fails")

    def portable(self) -> dict[str, Any]:
        """The values as JSON has them; an absolute path counts by its last component.

        What a file holds is the data fingerprint's business.
        """
        values = self.model_dump(mode="json")
        for entry, knob in PATH_KNOBS:
            path = values[entry].get(knob)
            if isinstance(path, str) and PurePath(path).is_absolute():
                values[entry][knob] = PurePath(path).name
        return values

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal for equal scenarios, wherever their files lie."""
        return digest_of(self.portable())


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
