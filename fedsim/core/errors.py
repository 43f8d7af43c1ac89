"""Every failure a user can cause, with the exit code that the command line returns for it.

    FedsimError                 70  internal: a bug in fedsim
      ScenarioError              2  a scenario file is wrong (carries every problem found)
        PrivacyConfigError       2  the privacy block contradicts itself or the data
      DataError                  3  rows, columns, labels, partitions
      ModelError                 3  base model, tokenizer, target modules
      ResourceError              4  the cluster cannot place what was asked for
      BudgetError                5  the privacy budget does not allow the next step
      CheckpointError            6  a run directory cannot be read or written
      QuorumError                7  too few banks returned an update
      SecurityError              8  refused because it would be unsafe

Every class survives pickle, so an actor can raise it: state lives in ``args`` only. What is found wrong after the
scenario file was read knows the key to blame (``blaming``), and its place is filled in where the file is at hand
(``Document.placing``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches


class FedsimError(Exception):
    """Base of all errors, made from a message and, where known, the scenario key to blame ("lora.target_modules").

    ``str(error)`` is the message: the one line shown to the user.
    """

    exit_code = 70

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    @property
    def key(self) -> str:
        """Dotted, empty where unknown."""
        return str(self.args[1]) if len(self.args) > 1 else ""


class DataError(FedsimError):
    exit_code = 3


class ModelError(FedsimError):
    exit_code = 3


class ResourceError(FedsimError):
    exit_code = 4


class BudgetError(FedsimError):
    exit_code = 5


class CheckpointError(FedsimError):
    exit_code = 6


class LockedError(CheckpointError):
    """Another process works in the directory."""


class QuorumError(FedsimError):
    exit_code = 7


class SecurityError(FedsimError):
    exit_code = 8


class Stopped(BaseException):
    """This process was told to end; like KeyboardInterrupt no error of anything that runs."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a scenario: where it is, what is wrong, and the exit code it deserves."""

    where: str  # "file:line:column" or "--set #1"
    key: str  # dotted path in the scenario, e.g. "privacy.max_grad_norm"; empty for the whole file
    message: str
    exit_code: int = 2

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ScenarioError(FedsimError):
    """All problems of one or more scenario files, one line each; the exit code is the highest of theirs."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__(tuple(problems))
        self.exit_code = max((problem.exit_code for problem in self.problems), default=2)

    @property
    def problems(self) -> tuple[Problem, ...]:
        problems: tuple[Problem, ...] = self.args[0]
        return problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class PrivacyConfigError(ScenarioError):
    """The privacy block asks for something that cannot be accounted for."""


@contextmanager
def blaming(key: str) -> Iterator[None]:
    """Errors raised inside are the fault of this scenario key, unless they name another."""
    try:
        yield
    except ScenarioError:
        raise
    except FedsimError as error:
        raise type(error)(str(error), error.key or key) from error


def suggest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` when a known word is close, else an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
