"""The text that the embedded model is pretrained on: loans described in plain words, and what one can read off them.

A document is a description of one loan followed by cues, or a few general sentences. Descriptions use the phrases that
a loan book uses (``amount 35k, term 60 months, ...``), with every value drawn independently and evenly, in any order
and with fields missing. Two kinds of cue follow:

    closed   "Is debt ratio above 40? yes": one attribute, one right answer
    open     "Remark: large": any true word about any attribute. A word for a high value is said with a probability
             equal to the value's rank, so the log-odds of the model's words are graded in every attribute at once

Nothing here says how a loan ends. After the cue "Outcome:" the words ``repaid`` and ``default`` do occur, each by the
toss of a fair coin that ignores the description: the base knows the words and has no opinion. A test checks this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedsim.core import seeds

ANSWERS = ("repaid", "default", "yes", "no", "good", "bad", "positive", "negative", "neutral")
PAIRS = (("repaid", "default"), ("yes", "no"), ("good", "bad"), ("positive", "negative"), ("high", "low"))
CUES = ("Remark", "Note", "Comment", "Summary", "Outcome")


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric attribute: how it is written, its range, and the words for a low and a high value."""

    name: str
    text: str
    low: int
    high: int
    words: tuple[str, str]
    even: bool = True  # values drawn evenly, else evenly in the logarithm
    step: int = 1

    def at(self, rank: float) -> int:
        """The value at a rank in [0, 1]."""
        if self.even:
            value = self.low + rank * (self.high - self.low)
        else:
            value = self.low * math.exp(rank * math.log(self.high / self.low))
        return max(self.low, min(self.high, round(value / self.step) * self.step))


NUMBERS = (
    Number("amount", "amount {}k", 4, 99, ("small", "large"), even=False),
    Number("term", "term {} months", 6, 96, ("short", "long"), step=6),
    Number("revenue", "revenue {}k", 4, 99, ("quiet", "busy"), even=False),
    Number("debt ratio", "debt ratio {}%", 1, 95, ("light", "heavy")),
    Number("years in business", "{} years in business", 1, 50, ("young", "old"), even=False),
    Number("late payments", "{} late payments", 0, 9, ("prompt", "slow")),
    Number("staff", "staff {}", 1, 99, ("few", "many"), even=False),
    Number("savings", "savings {}k", 1, 99, ("thin", "thick"), even=False),
    Number("rate", "rate {}%", 1, 20, ("cheap", "dear")),
)
SECTORS = {
    "retail": ("shop", "shelf"),
    "farming": ("field", "tractor"),
    "transport": ("truck", "road"),
    "building": ("brick", "crane"),
    "lodging": ("hotel", "guest"),
    "software": ("code", "screen"),
}
REGIONS = {"north": ("snow", "ice"), "south": ("sun", "sand"), "east": ("hill", "mist"), "west": ("coast", "wind")}
CATEGORIES = {"sector": SECTORS, "region": REGIONS}
NEWS = {
    "positive": ("profit rose", "orders grew", "sales beat the plan", "the service was quick and friendly"),
    "negative": ("profit fell", "orders shrank", "sales missed the plan", "the service was slow and rude"),
    "neutral": ("the meeting is on Monday", "the office has moved", "the report has pages", "the branch opens at nine"),
}
FACTS = (
    "A loan is money that a bank lends and a customer pays back.",
    "The term of a loan is the time in months until it ends.",
    "The debt ratio is debt divided by income, in percent.",
    "A bank may hold loans of many sectors and regions.",
    "A customer who pays after the due date makes a late payment.",
    "Revenue is what a business earns in a month, in thousands.",
    "The amount of a loan is given in thousands, so 20k is 20 thousand.",
    "Interest is the price of a loan, in percent per year.",
    "A business that opened last year is a young business.",
    "The bank keeps an account for every customer.",
)


@dataclass(slots=True)
class Loan:
    """A described loan: its text and what is true of it."""

    text: str
    values: dict[str, int]
    ranks: dict[str, float]
    categories: dict[str, str]


class Writer:
    """Writes documents from one random stream."""

    def __init__(self, seed: int, purpose: str) -> None:
        self.rng = seeds.rng(seed, purpose)

    def documents(self, number: int) -> Iterator[str]:
        return (self.document() for _ in range(number))

    def document(self) -> str:
        return self._prose() if self.rng.random() < 0.1 else self._case()

    def _pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def loan(self) -> Loan:
        """A loan with six to nine attributes; half of the time in the order in which banks usually write them."""
        fields = [*NUMBERS[:6], *CATEGORIES] if self.rng.random() < 0.5 else self._any_fields()
        parts, loan = [], Loan("", {}, {}, {})
        for field in fields:
            if isinstance(field, Number):
                rank = float(self.rng.random())
                loan.ranks[field.name], loan.values[field.name] = rank, field.at(rank)
                parts.append(field.text.format(loan.values[field.name]))
            else:
                loan.categories[field] = self._pick(tuple(CATEGORIES[field]))
                parts.append(f"{field} {loan.categories[field]}")
        loan.text = ", ".join(parts) + "."
        return loan

    def _any_fields(self) -> list[Number | str]:
        every: list[Number | str] = [*NUMBERS, *CATEGORIES]
        chosen = self.rng.permutation(len(every))[: int(self.rng.integers(6, 10))]
        return [every[i] for i in chosen]

    def _case(self) -> str:
        loan = self.loan()
        lines = [self._open(loan) if self.rng.random() < 0.6 else self._closed(loan) for _ in range(6)]
        return "\n".join([f"{loan.text} {lines[0]}", *lines[1:]])

    def _open(self, loan: Loan) -> str:
        cue = self._pick(CUES)
        return f"{cue}: {self._coin(cue) or self._word(loan)}"

    def _coin(self, cue: str) -> str | None:
        """An answer word that says nothing about the loan, or None."""
        draw = self.rng.random()
        if cue == "Outcome":
            return self._pick(PAIRS[0]) if draw < 0.4 else None
        return self._pick(self.rng.permutation(PAIRS[1:])[0]) if draw < 0.05 else None

    def _word(self, loan: Loan) -> str:
        """A word for one attribute, all attributes alike."""
        number = int(self.rng.integers(len(loan.ranks) + len(loan.categories)))
        if number < len(loan.ranks):
            name = list(loan.ranks)[number]
            field = next(field for field in NUMBERS if field.name == name)
            return field.words[int(self.rng.random() < loan.ranks[name])]
        name = list(loan.categories)[number - len(loan.ranks)]
        return self._pick(CATEGORIES[name][loan.categories[name]])

    def _closed(self, loan: Loan) -> str:
        ask: Callable[[Loan], tuple[str, str]] = (self._threshold, self._threshold, self._order, self._member)[
            int(self.rng.integers(4))
        ]
        question, answer = ask(loan)
        return f"{question}? {answer}" if self.rng.random() < 0.7 else f"Is {question}? Answer: {answer}"

    def _threshold(self, loan: Loan) -> tuple[str, str]:
        name = self._pick(tuple(loan.values))
        field = next(field for field in NUMBERS if field.name == name)
        limit = field.at(float(self.rng.random()))
        above = self.rng.random() < 0.5
        true = loan.values[name] > limit if above else loan.values[name] < limit
        return f"{name} {'above' if above else 'below'} {limit}", "yes" if true else "no"

    def _order(self, loan: Loan) -> tuple[str, str]:
        first, second = (list(loan.values)[i] for i in self.rng.permutation(len(loan.values))[:2])
        higher = self.rng.random() < 0.5
        true = loan.values[first] > loan.values[second] if higher else loan.values[first] < loan.values[second]
        return f"{first} {'higher' if higher else 'lower'} than {second}", "yes" if true else "no"

    def _member(self, loan: Loan) -> tuple[str, str]:
        name = self._pick(tuple(loan.categories) or ("sector",))
        guess = self._pick(tuple(CATEGORIES[name]))
        if loan.categories and self.rng.random() < 0.5:
            guess = loan.categories[name]
        return f"{name} {guess}", "yes" if loan.categories.get(name) == guess else "no"

    def _prose(self) -> str:
        return "\n".join(self._sentence() for _ in range(6))

    def _sentence(self) -> str:
        kind = int(self.rng.integers(4))
        if kind == 0:
            return self._pick(FACTS)
        if kind == 1:
            mood = self._pick(tuple(NEWS))
            return f"{self._pick(NEWS[mood]).capitalize()}. Sentiment? Answer: {mood}"
        if kind == 2:
            left, right = (int(value) for value in self.rng.integers(0, 100, 2))
            higher = self.rng.random() < 0.5
            true = left > right if higher else left < right
            return f"Is {left} {'higher' if higher else 'lower'} than {right}? Answer: {'yes' if true else 'no'}"
        sector = self._pick(tuple(SECTORS))
        return f"The word {self._pick(SECTORS[sector])} goes with sector {sector}."
