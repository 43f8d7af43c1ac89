"""Which columns are prompt and answer, where a scenario does not say.

    instruction, input, output or response   Alpaca's prompt, with or without the input part
    context, target                           FinLoRA
    prompt | text | sentence | question, with label | target | output | response | completion | answer

The first name of each list that the file has is taken. A column called ``label`` holds labels; any other answer column
holds free text, unless the scenario gives ``labels``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.core.errors import DataError
from fedsim.data.files import RawRows
from fedsim.data.text import Template, is_missing

PROMPTS = ("context", "prompt", "text", "sentence", "question")
ANSWERS = ("label", "target", "output", "response", "completion", "answer")

ALPACA = Template.parse(
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_WITH_INPUT = Template.parse(
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True, slots=True)
class Fields:
    """How to make a prompt, and the column that holds the answer."""

    template: Template
    answer: str
    answer_is_label: bool  # by its name, where the scenario says nothing
    without: tuple[str, Template] | None = None  # rows in which this column is empty take this template

    def render(self, raw: RawRows, missing: str) -> list[str]:
        """One prompt per row."""
        if self.without is None:
            return self.template.render(raw.frame, missing, raw.place)
        column, short = self.without
        empty = is_missing(raw.frame[column])
        prompts = np.empty(len(empty), dtype=object)
        for template, rows in ((self.template, np.flatnonzero(~empty)), (short, np.flatnonzero(empty))):
            if len(rows):
                part = raw.take(rows)
                prompts[rows] = template.render(part.frame, missing, part.place)
        return list(prompts)


def find_fields(raw: RawRows, text: str | None, answer: str | None) -> Fields:
    """The fields as named, else as the columns suggest. DataError when neither says."""
    columns = [str(name) for name in raw.frame.columns]
    if answer is None:
        answer = next((name for name in ANSWERS if name in columns), None)
        if answer is None:
            raise DataError(f"{raw.name}: no answer: set label or answer. Columns: {', '.join(columns)}")
    is_label = answer == "label"
    if text is not None:
        return Fields(Template.parse(text), answer, is_label)
    if "instruction" in columns:
        if "input" in columns:
            return Fields(ALPACA_WITH_INPUT, answer, is_label, without=("input", ALPACA))
        return Fields(ALPACA, answer, is_label)
    prompt = next((name for name in PROMPTS if name in columns and name != answer), None)
    if prompt is None:
        raise DataError(f"{raw.name}: no prompt: set text, e.g. 'amount {{amount}}'. Columns: {', '.join(columns)}")
    return Fields(Template.parse(f"{{{prompt}}}"), answer, is_label)
