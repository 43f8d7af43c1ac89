"""The text that the embedded model is pretrained on: loans described in plain words, and what one can read off them.

A document is a description of one loan followed by cues, or a few general sentences. Descriptions use the phrases that
a loan book uses (``amount 35k, term 60 months, ...``), with every value drawn independently and evenly, in any order
and with fields missing. Two kinds of cue follow:

    closed   "debt above 40? yes": one number, one right answer
    open     "Remark: large shop heavy ...": a word for every attribute in random order. Whether it is the word for a
             high or a low value is drawn, with log-odds that grow evenly with the value's rank: to predict the next
             word, a model must have all attributes at hand at once, and graded

A glossary shows numbers one by one, each with its word; a few documents are general sentences.

Nothing here says how a loan ends. After the cue "Outcome:" the words ``repaid`` and ``default`` do occur, each by the
toss of a fair coin that ignores the description: the base knows the words and has no opinion. A test checks this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fedsim.core import seeds

ANSWERS = ("repaid", "default", "yes", "no", "good", "bad", "positive", "negative", "neutral")
PAIRS = (("repaid", "default"), ("yes", "no"), ("good", "bad"), ("positive", "negative"), ("high", "low"))
STEEP = 10.0  # log-odds of the word for a high value, from the lowest value to the highest: -5 to 5
CUES = ("Remark", "Note", "Summary", "Outcome")


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
    Number("debt", "debt {}%", 1, 95, ("light", "heavy")),
    Number("age", "age {} years", 1, 50, ("young", "old"), even=False),
    Number("late payments", "late payments {}", 0, 9, ("punctual", "tardy")),
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
WORDS = tuple(word for number in NUMBERS for word in number.words) + tuple(
    word for options in CATEGORIES.values() for words in options.values() for word in words
)
NEWS = {
    "positive": ("profit rose", "orders grew", "sales beat the plan", "the service was quick and friendly"),
    "negative": ("profit fell", "orders shrank", "sales missed the plan", "the service was slow and rude"),
    "neutral": ("the meeting is on Monday", "the office has moved", "the report has pages", "the branch opens at nine"),
}
FACTS = (
    "A loan is money that a bank lends and a customer pays back.",
    "The term of a loan is the time in months until it ends.",
    "Debt is what a customer owes, here in percent of income.",
    "A bank may hold loans of many sectors and regions.",
    "A customer who pays after the due date makes a late payment.",
    "Revenue is what a business earns in a month, in thousands.",
    "The amount of a loan is given in thousands, so 20k is 20 thousand.",
    "Interest is the price of a loan, in percent per year.",
    "A business that opened last year is a young business.",
    "The bank keeps an account for every customer.",
    "A small business has few employees and one owner.",
    "The industry of a borrower is also called its sector.",
    "A credit card has a limit, a balance and a monthly statement.",
    "The state or region says where the business is located.",
    "A mortgage is a loan for a house, with the house as security.",
    "Please answer the question with one word from the list.",
    "The following text describes a transaction or a complaint.",
    "Stock and market news tell what a company did and sold.",
    "An application is approved or declined by an officer.",
    "The gross amount is what was approved before any fees.",
)


@dataclass(frozen=True, slots=True)
class Loan:
    """A described loan: its text and what is true of it."""

    text: str
    numbers: list[tuple[Number, float]]  # attribute and the rank of its value
    categories: list[tuple[str, str]]


class Writer:
    """Writes documents from one random stream."""

    def __init__(self, seed: int, purpose: str) -> None:
        self.rng = seeds.rng(seed, purpose)

    def documents(self, number: int) -> Iterator[str]:
        return (self.document() for _ in range(number))

    def document(self) -> str:
        draw = self.rng.random()
        return self._prose() if draw < 0.08 else self._glossary() if draw < 0.3 else self._case()

    def _pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def loan(self) -> Loan:
        """A loan with six to nine attributes; half of the time in the order in which banks usually write them."""
        usual: list[Number | str] = [*NUMBERS[:6], *CATEGORIES]
        fields = usual if self.rng.random() < 0.5 else self._any_fields()
        parts, numbers, categories = [], [], []
        for field in fields:
            if isinstance(field, Number):
                rank = float(self.rng.random())
                numbers.append((field, rank))
                parts.append(field.text.format(field.at(rank)))
            else:
                value = self._pick(tuple(CATEGORIES[field]))
                categories.append((field, value))
                parts.append(f"{field} {value}")
        return Loan(", ".join(parts) + ".", numbers, categories)

    def _any_fields(self) -> list[Number | str]:
        every: list[Number | str] = [*NUMBERS, *CATEGORIES]
        chosen = self.rng.permutation(len(every))[: int(self.rng.integers(6, 10))]
        return [every[i] for i in chosen]

    def _case(self) -> str:
        loan = self.loan()
        lines = [self._open(loan) if self.rng.random() < 0.8 else self._closed(loan) for _ in range(3)]
        return "\n".join([f"{loan.text} {lines[0]}", *lines[1:]])

    def _open(self, loan: Loan) -> str:
        """A cue and a word for every attribute, in random order; after some cues an answer word comes first."""
        cue = self._pick(CUES)
        words = [self._level(field, rank) for field, rank in loan.numbers]
        words += [self._pick(CATEGORIES[name][value]) for name, value in loan.categories]
        shuffled = [words[i] for i in self.rng.permutation(len(words))]
        return f"{cue}: {' '.join([*self._coin(cue), *shuffled])}"

    def _coin(self, cue: str) -> list[str]:
        """An answer word that says nothing about the loan, or none."""
        draw = self.rng.random()
        if cue == "Outcome":
            return [self._pick(PAIRS[0])] if draw < 0.6 else []
        return [self._pick(PAIRS[1 + int(self.rng.integers(len(PAIRS) - 1))])] if draw < 0.05 else []

    def _level(self, field: Number, rank: float) -> str:
        """The word for a high or a low value; the log-odds of "high" grow evenly with the rank."""
        return field.words[int(self.rng.random() < 1 / (1 + math.exp(STEEP * (0.5 - rank))))]

    def _glossary(self) -> str:
        """Attributes one by one, each with its word."""
        lines = []
        for _ in range(9):
            field = NUMBERS[int(self.rng.integers(len(NUMBERS)))]
            rank = float(self.rng.random())
            lines.append(f"{field.text.format(field.at(rank))}: {self._level(field, rank)}")
        return "\n".join(lines)

    def _closed(self, loan: Loan) -> str:
        """A yes/no question about one number."""
        field, rank = loan.numbers[int(self.rng.integers(len(loan.numbers)))]
        value, limit = field.at(rank), field.at(float(self.rng.random()))
        above = self.rng.random() < 0.5
        true = value > limit if above else value < limit
        return f"{field.name} {'above' if above else 'below'} {limit}? {'yes' if true else 'no'}"

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
