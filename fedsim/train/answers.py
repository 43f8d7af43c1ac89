"""How good a written answer is: what a row's generated text is held to, when a scenario asks for such metrics.

exact_match    1 where the answer is the true one, but for case, spaces and a full stop at the end
token_f1       F1 of the words that both have, as often as both have them, without a, an, the (Rajpurkar et al.,
               arXiv 1606.05250); a number is one word
numeric_match  1 where the first number of the answer is that of the true one up to ``ABSOLUTE`` or ``RELATIVE``,
               whichever is more; currency, percent signs and thousands separators do not count. NaN, and left out of
               the mean, where the true answer has no number
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

ABSOLUTE = 0.005  # two decimal places
RELATIVE = 1e-3

WORD = re.compile(r"\w+(?:[.,]\w+)*")
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
ARTICLES = frozenset(("a", "an", "the"))


def exact_match(answer: str, truth: str) -> float:
    return float(_plain(answer) == _plain(truth))


def token_f1(answer: str, truth: str) -> float:
    """Where one of the two has no words, 1 if neither has."""
    given, wanted = _words(answer), _words(truth)
    if not given or not wanted:
        return float(given == wanted)
    shared = (given & wanted).total()
    return 2 * shared / (given.total() + wanted.total())


def numeric_match(answer: str, truth: str) -> float:
    given, wanted = _number(answer), _number(truth)
    if math.isnan(wanted):
        return math.nan
    return float(abs(given - wanted) <= max(ABSOLUTE, RELATIVE * abs(wanted)) + 1e-12)  # NaN compares as false


JUDGES: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "numeric_match": numeric_match,
}


def judge(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """(n, judges) float64 of (answer, true answer), in the order of ``JUDGES``."""
    judged = [[score(answer, truth) for score in JUDGES.values()] for answer, truth in pairs]
    return np.array(judged, dtype=np.float64).reshape(len(pairs), len(JUDGES))


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".")


def _words(text: str) -> Counter[str]:
    return Counter(word for word in WORD.findall(text.lower()) if word not in ARTICLES)


def _number(text: str) -> float:
    found = NUMBER.search(re.sub(r"(?<=-)\s*[$€£]\s*", "", text))
    return float(found[0].replace(",", "")) if found else math.nan
