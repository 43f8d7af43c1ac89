"""What a row's loss and a label's score are, for the two tasks: answering a prompt, and classifying a text.

Causal LM rows are padded on the left, so that the answers end at the last position and only those logits are formed.

A text that may be run again has an id: that of a row is its index in the corpus, and with n rows, the prompt of row i
followed by label word w has the id n (w + 1) + i.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedsim.core.adapter import AdapterState
from fedsim.core.rows import TokenRows
from fedsim.models.base import Batch, CohortModel
from fedsim.models.fused import losses_of_hidden, token_losses
from fedsim.models.network import Adapted
from fedsim.models.prefix import Activations, find_prefix
from fedsim.models.shortcuts import plain_logits, without_logits


def pad(sequences: list[np.ndarray], pad_id: int, left: bool) -> tuple[Tensor, Tensor]:
    """Ragged rows as (ids, mask), both (n, longest)."""
    width = max((len(s) for s in sequences), default=0)
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        span = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, span], mask[row, span] = sequence, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


class HuggingFaceTask(CohortModel):
    """What both tasks share: an adapted network, where it lives, and what is held of its frozen part."""

    left: bool

    def __init__(self, adapted: Adapted, tokenizer: Any) -> None:
        super().__init__(adapted.network, adapted.running)
        self.adapted, self.tokenizer, self.pad_id = adapted, tokenizer, int(tokenizer.pad_token_id)
        self.accepted = set(inspect.signature(adapted.network.forward).parameters)
        self.prefix = find_prefix(self.network)
        self.held: Activations | None = None
        self._held_rows: TokenRows | None = None  # whose activations these are
        self.is_proved = False

    def new_adapter(self, seed: int) -> AdapterState:
        return self.adapted.new_adapter(seed)

    @abstractmethod
    def texts(self, rows: TokenRows, ids: np.ndarray) -> list[np.ndarray]:
        """The token ids of texts by id."""

    @abstractmethod
    def scored_ids(self, rows: TokenRows, indices: np.ndarray) -> list[np.ndarray]:
        """The ids of the texts that ``label_scores`` runs for these rows, one array per pass."""

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The arguments of a forward pass."""

    def remember(self, rows: TokenRows, trained: Sequence[np.ndarray], scored: Sequence[np.ndarray]) -> None:
        if self.prefix is None:
            return
        groups = [*trained, *(ids for group in scored for ids in self.scored_ids(rows, group))]
        if self.held is not None and rows is self._held_rows and self.held.has(groups):
            return  # the run before had the same rows
        self._held_rows, self.is_proved = rows, False
        lengths = rows.lengths(np.arange(len(rows)))
        words = [lengths + len(word) - (lengths - rows.answer_starts) for word in rows.label_ids]
        self.held = Activations(groups, np.concatenate([lengths, *words]), lambda ids: self._run_prefix(rows, ids))

    def _run_prefix(self, rows: TokenRows, ids: np.ndarray) -> Tensor:
        """(tokens, d) of these texts, run together."""
        batch = self._batch(self.texts(rows, ids), ids, np.zeros(len(ids)), np.zeros(len(ids)))
        hidden = self._record(batch)
        return hidden[batch.attention_mask.bool()]

    def _record(self, batch: Batch) -> Tensor:
        if self.prefix is None:
            raise RuntimeError("a network without a frozen part")
        return self.prefix.record(lambda: self.network(**self.inputs(batch)))

    def logits(self, batch: Batch) -> Tensor:
        """Of a forward pass, which starts above the frozen part where its activations are held."""
        hidden = self._activations(batch)
        if hidden is None or self.prefix is None:
            return self.network(**self.inputs(batch)).logits  # type: ignore[no-any-return]
        with self.prefix.replaced(hidden):
            return self.network(**self.inputs(batch)).logits  # type: ignore[no-any-return]

    @torch.no_grad()
    def _activations(self, batch: Batch) -> Tensor | None:
        """(n, t, d) above the frozen part: of rows that are held, else computed now; None where none is held."""
        if self.held is None or not (known := self.held.known(batch.ids)).any():
            return None
        if not self.is_proved and not self._prove(batch):
            return None
        width = batch.input_ids.shape[1]
        if known.all():
            return self.held.take(batch.ids, width, self.left)
        found = self.held.take(batch.ids[known], width, self.left)
        hidden = found.new_empty(len(batch.ids), *found.shape[1:])
        for chosen, values in ((known, found), (~known, self._record(batch.take(np.flatnonzero(~known))))):
            hidden[torch.from_numpy(chosen).to(hidden.device)] = values
        return hidden

    def _prove(self, batch: Batch) -> bool:
        """Whether the network's upper part needs the lower one's activations alone, told by one pass in two parts.

        A network that hands on more (keys shared between layers, say) holds nothing and runs whole.
        """
        if self.prefix is None:
            return False
        inputs = self.inputs(batch)
        whole: Tensor = self.network(**inputs).logits
        hidden = self._record(batch)
        self._record(batch.take(np.arange(len(batch.ids))[::-1].copy()))  # what else is left behind is not this batch's
        with self.prefix.replaced(hidden):
            parted: Tensor = self.network(**inputs).logits
        self.is_proved = bool((parted - whole).abs().max() <= 1e-5 * whole.abs().max())
        if not self.is_proved:
            self.held = None
        return self.is_proved

    def _batch(
        self, sequences: list[np.ndarray], ids: np.ndarray, answer_lengths: np.ndarray, labels: np.ndarray
    ) -> Batch:
        tokens, mask = pad(sequences, self.pad_id, self.left)
        device = self.device
        return Batch(
            tokens.to(device),
            mask.to(device),
            torch.as_tensor(answer_lengths, device=device),
            torch.as_tensor(labels, device=device),
            ids,
        )


class CausalLM(HuggingFaceTask):
    left = True

    def __init__(self, adapted: Adapted, tokenizer: Any) -> None:
        super().__init__(adapted, tokenizer)
        self.last = plain_logits(self.network)

    def texts(self, rows: TokenRows, ids: np.ndarray) -> list[np.ndarray]:
        return [self._text(rows, *divmod(int(number), len(rows))) for number in ids]

    def _text(self, rows: TokenRows, word: int, index: int) -> np.ndarray:
        """A row as it is (0), or its prompt followed by a label word (1, 2, ...)."""
        if not word:
            return rows.row(index)
        answer = np.array(rows.label_ids[word - 1], dtype=np.int32)
        return np.concatenate([rows.row(index)[: rows.answer_starts[index]], answer])

    def scored_ids(self, rows: TokenRows, indices: np.ndarray) -> list[np.ndarray]:
        if not rows.label_ids or one_token_each(rows):
            return [indices]
        return [indices + len(rows) * (word + 1) for word in range(len(rows.label_ids))]

    def inputs(self, batch: Batch) -> dict[str, Any]:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
        if "position_ids" in self.accepted:
            inputs["position_ids"] = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        if "logits_to_keep" in self.accepted:
            inputs["logits_to_keep"] = slice(-keep_of(batch), -1)
        return inputs

    def batch(self, rows: TokenRows, indices: np.ndarray) -> Batch:
        """Rows by id."""
        sequences = self.texts(rows, indices)
        lengths = np.array([len(s) for s in sequences], dtype=np.int64) - rows.answer_starts[indices % len(rows)]
        return self._batch(sequences, indices, lengths, rows.labels[indices % len(rows)])

    def _answer_logits(self, batch: Batch) -> Tensor:
        """(n, a, vocab) logits that predict the tokens of the longest answer, at the end of every row."""
        logits = self.logits(batch)
        return logits if "logits_to_keep" in self.accepted else logits[:, -keep_of(batch) : -1]

    def row_losses(self, batch: Batch) -> Tensor:
        targets = batch.input_ids[:, 1 - keep_of(batch) :]  # (n, a)
        position = torch.arange(targets.shape[1], 0, -1, device=self.device)  # distance from the end, 1 for the last
        places = (position <= batch.answer_lengths[:, None]).flatten().nonzero().squeeze(1)  # of answers' tokens
        wanted = targets.flatten()[places]
        if self.last is None:
            logits = self._answer_logits(batch).flatten(0, 1).index_select(0, places)
            found = token_losses(logits.float(), wanted)
        else:
            with without_logits(self.last):
                hidden = self._answer_logits(batch).flatten(0, 1).index_select(0, places)
            found = losses_of_hidden(hidden, self.last.weight, self.last.bias, wanted)
        losses = found.new_zeros(targets.numel()).index_copy(0, places, found).view(targets.shape)
        return losses.sum(1) / batch.answer_lengths

    def label_scores(self, rows: TokenRows, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        if rows.label_ids and one_token_each(rows):
            scores = self._one_token_scores(rows, indices)
        else:
            passes = [-self.row_losses(self.batch(rows, ids)) for ids in self.scored_ids(rows, indices)]
            scores = torch.stack(passes, 1)
        scores = scores.double().cpu()
        if not rows.label_ids:
            return scores.new_zeros(len(indices), 0), -scores.squeeze(1)
        labels = torch.from_numpy(rows.labels[indices])
        return scores, -scores.gather(1, labels[:, None]).squeeze(1)

    def _one_token_scores(self, rows: TokenRows, indices: np.ndarray) -> Tensor:
        """One pass scores every label word when each is one token: the answer that stands there is not looked at."""
        words = torch.tensor([word[0] for word in rows.label_ids], device=self.device)
        logits = self._answer_logits(self.batch(rows, indices))[:, -1].float()
        return logits.log_softmax(-1)[:, words]

    def answers(self, rows: TokenRows, indices: np.ndarray, max_new_tokens: int) -> list[tuple[str, str]]:
        parts = [np.split(rows.row(i), [rows.answer_starts[i]]) for i in indices]
        written = self._write([prompt for prompt, _ in parts], max_new_tokens)
        return [(self._decoded(own), self._decoded(truth)) for own, (_, truth) in zip(written, parts, strict=True)]

    def _decoded(self, ids: np.ndarray) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def _write(self, prompts: list[np.ndarray], max_new_tokens: int) -> np.ndarray:
        """(n, at most max_new_tokens) the most likely next token, again and again; padding after the end token.

        Keys and values of earlier tokens are kept, so a step costs one token. A prompt that leaves no room in the
        model's context loses its beginning.
        """
        room = getattr(self.network.config, "max_position_embeddings", None)
        if room is not None:
            prompts = [prompt[-max(1, room - max_new_tokens) :] for prompt in prompts]
        tokens, mask = (part.to(self.device) for part in pad(prompts, self.pad_id, self.left))
        position = (mask.cumsum(1) - 1).clamp(min=0)
        done = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        written: list[Tensor] = []
        cache: Any = None
        while len(written) < max_new_tokens and not done.all():
            inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "past_key_values": cache}
            inputs |= {"position_ids": position} if "position_ids" in self.accepted else {}
            inputs |= {"logits_to_keep": 1} if "logits_to_keep" in self.accepted else {}
            output = self.network(**inputs, use_cache=True)
            likely, cache = output.logits[:, -1].argmax(-1), output.past_key_values
            written.append(torch.where(done, self.pad_id, likely))
            done |= likely == self.tokenizer.eos_token_id
            tokens, position = written[-1][:, None], position[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        return torch.stack(written, 1).cpu().numpy()


def one_token_each(rows: TokenRows) -> bool:
    """Whether every label word is a single token."""
    return all(len(word) == 1 for word in rows.label_ids)


def keep_of(batch: Batch) -> int:
    """Positions at the end of which logits are formed: one before the longest answer, and the answer."""
    return int(batch.answer_lengths.max()) + 1


class SequenceClassification(HuggingFaceTask):
    left = False

    def texts(self, rows: TokenRows, ids: np.ndarray) -> list[np.ndarray]:
        return [rows.row(number) for number in ids]

    def scored_ids(self, rows: TokenRows, indices: np.ndarray) -> list[np.ndarray]:
        return [indices]

    def inputs(self, batch: Batch) -> dict[str, Any]:
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}

    def batch(self, rows: TokenRows, indices: np.ndarray) -> Batch:
        return self._batch(self.texts(rows, indices), indices, np.zeros(len(indices)), rows.labels[indices])

    def row_losses(self, batch: Batch) -> Tensor:
        return cross_entropy(self.logits(batch).float(), batch.labels, reduction="none")

    def label_scores(self, rows: TokenRows, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        batch = self.batch(rows, indices)
        scores = self.logits(batch).float().log_softmax(-1)
        return scores.double().cpu(), -scores.gather(1, batch.labels[:, None]).squeeze(1).double().cpu()
