"""A round's row: drafted when its state is committed, told when the state has been measured.

Nothing that is computed later depends on what is measured, so actors score a state while others already train the next
round. A driver that is killed in between is followed by one that measures the committed state again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fedsim.core.errors import FedsimError
from fedsim.core.events import Failed, RoundRow, Waiting
from fedsim.core.messages import ServerState
from fedsim.engine.evaluation import evaluated, measured_banks, scoring
from fedsim.engine.gather import Gathered, Told
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Answer, Kept, Partial, Pool, Scored, Scoring
from fedsim.engine.rows import draft_of, measured_row, widened
from fedsim.engine.store import Restored, Store
from fedsim.privacy.ledger import Ledger
from fedsim.records.summary import Summary
from fedsim.train.values import Scores


@dataclass(slots=True)
class Draft:
    """The row of a committed round that was not told yet."""

    row: RoundRow
    asked: Scoring | None = None  # what is to be scored first; None: the row is whole, or was told


class Telling:
    """The rows of a run, and what they add up to."""

    def __init__(self, plan: Plan, pool: Pool, store: Store) -> None:
        self._plan, self._pool, self._store = plan, pool, store
        self.summary = Summary(plan.started())
        self._start = self._lap = time.perf_counter()

    def seconds(self) -> float:
        """Since the run began, in all its lives."""
        return time.perf_counter() - self._start

    def committed(
        self, state: ServerState, gathered: Gathered, ledger: Ledger, kept: Mapping[str, Kept], last: bool
    ) -> Draft:
        """Commit the staged state. It is measured before the first and after the last round, and as often as asked."""
        every = self._plan.evaluation.every
        due = last or state.round == 0 or (every and state.round % every == 0)
        asked = scoring(self._plan, state, kept) if due else None
        measured = measured_banks(self._plan, state.round) if asked else ()
        row = draft_of(self._plan, ledger, state.round, gathered, measured, self.summary.releases())
        draft = Draft(row, asked) if asked else Draft(replace(row, seconds=self._lapped()))
        self._store.commit(draft.row, whole=asked is None)
        return draft

    def resumed(
        self, found: Restored, state: ServerState, ledger: Ledger, kept: Mapping[str, Kept], last: bool
    ) -> Draft:
        """The newest round of an earlier life. It is measured if it was to be, or if it turns out to be the last."""
        row = found.newest
        self._start -= row.seconds
        asked = None if found.is_whole and (row.metrics or not last) else scoring(self._plan, state, kept)
        if asked is not None and found.is_whole:
            banks, releases = measured_banks(self._plan, state.round), self.summary.releases()
            row = widened(self._plan, row, draft_of(self._plan, ledger, row.round, Gathered(), banks, releases))
        return Draft(row, asked)

    def told(self, draft: Draft, scores: Mapping[int, Scores]) -> RoundRow:
        """The row, with what follows from the scores of all that was asked."""
        row = draft.row
        if draft.asked is not None:
            found = evaluated(self._plan, draft.asked, scores)
            row = measured_row(row, found, self.summary.releases(), self._lapped())
            self._store.measured(row)
            draft.asked = None  # what banks keep and were sent is let go
        self.summary.add(row)
        return row

    def now(self, draft: Draft) -> Iterator[RoundRow]:
        """The row, where nothing else is to be done meanwhile."""
        yield self.told(draft, {} if draft.asked is None else dict(self._pool.score(draft.asked)))

    def beside(self, draft: Draft, answers: Iterator[Scored | Partial | Answer | Failed | Waiting]) -> Iterator[Told]:
        """The answers of a round that is trained after the scoring, or beside it; before them the row of the draft."""
        scores: dict[int, Scores] = {}
        for answer in answers:
            if not isinstance(answer, Scored):
                yield answer
                continue
            scores[answer.which] = answer.scores
            if draft.asked and len(scores) == len(draft.asked):
                yield self.told(draft, scores)
        if draft.asked:
            missing = len(draft.asked) - len(scores)
            raise FedsimError(f"{missing} scores did not come; round {draft.row.round} is not measured")

    def again(self, row: RoundRow) -> None:
        """A row that was told in an earlier life of the run."""
        self._start -= row.seconds
        self.summary.add(row)

    def _lapped(self) -> float:
        """Seconds since the row before."""
        now = time.perf_counter()
        self._lap, past = now, now - self._lap
        return past
