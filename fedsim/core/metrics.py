"""The names of the metrics, which scenarios, trainers and tables share; ``fedsim.train.metrics`` computes them.

What can be computed depends on the task, and the task on the number of label words: two of them ask a yes-or-no
question whose positive answer is the second word, none is free text, anything else is a choice. The first metric of a
task, in the order of ``METRICS``, is its headline: the one that a live view shows and by which the worst bank is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Task = Literal["binary", "choice", "text"]
Metric = Literal[
    "auc", "accuracy", "f1", "nll", "ks", "brier", "ece", "perplexity", "exact_match", "token_f1", "numeric_match"
]


@dataclass(frozen=True, slots=True)
class MetricInfo:
    title: str  # of a column
    tasks: tuple[Task, ...]
    lower_is_better: bool = False
    written: bool = False  # needs answers written token by token: computed only where a scenario names it


METRICS: Mapping[str, MetricInfo] = {
    "auc": MetricInfo("AUC", ("binary", "choice")),  # area under the ROC curve; one against the rest for a choice
    "accuracy": MetricInfo("acc", ("binary", "choice")),  # of the most likely label word
    "f1": MetricInfo("F1", ("binary", "choice")),  # at a threshold from training rows; mean over the words of a choice
    "nll": MetricInfo("NLL", ("binary", "choice", "text"), lower_is_better=True),  # of the answer's tokens, nats
    "ks": MetricInfo("KS", ("binary",)),  # Kolmogorov-Smirnov distance of the two classes' scores
    "brier": MetricInfo("Brier", ("binary",), lower_is_better=True),  # squared error of the positive's probability
    "ece": MetricInfo("ECE", ("binary",), lower_is_better=True),  # expected calibration error
    "perplexity": MetricInfo("PPL", ("text",), lower_is_better=True),
    "exact_match": MetricInfo("EM", ("text",), written=True),  # ``fedsim.train.answers`` says what these three are
    "token_f1": MetricInfo("tok F1", ("text",), written=True),
    "numeric_match": MetricInfo("num", ("text",), written=True),
}


def task_of(num_labels: int) -> Task:
    """The task that a number of label words makes."""
    return "binary" if num_labels == 2 else "choice" if num_labels else "text"


def metric_names(num_labels: int) -> tuple[str, ...]:
    """Names of the metrics of a task that need no more than one forward pass, the headline first."""
    return tuple(name for name in all_metric_names(num_labels) if not METRICS[name].written)


def all_metric_names(num_labels: int) -> tuple[str, ...]:
    """The same with those that a scenario has to name."""
    return tuple(name for name, info in METRICS.items() if task_of(num_labels) in info.tasks)


def headline(names: Iterable[str]) -> str | None:
    """The metric that stands for these when there is room for one; None when none is known."""
    present = set(names)
    return next((name for name in METRICS if name in present), None)


def worse(name: str, value: float) -> float:
    """A key that is larger the worse the value is."""
    return value if METRICS[name].lower_is_better else -value
