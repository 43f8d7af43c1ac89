"""What a row's loss and a label's score are, for the two tasks: answering a prompt, and classifying a text.

Causal LM rows are padded on the left, so that the answers end at the last position and only those logits are formed.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedsim.core.adapter import AdapterState
from fedsim.core.rows import TokenRows
from fedsim.models.base import Batch, CohortModel
from fedsim.models.network import Adapted


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
    """What both tasks share: an adapted network and where it lives."""

    left: bool

    def __init__(self, adapted: Adapted, pad_id: int) -> None:
        super().__init__(adapted.network, adapted.running)
        self.adapted, self.pad_id = adapted, pad_id
        self.accepted = set(inspect.signature(adapted.network.forward).parameters)

    def new_adapter(self, seed: int) -> AdapterState:
        return self.adapted.new_adapter(seed)

    def _batch(self, sequences: list[np.ndarray], answer_lengths: np.ndarray, labels: np.ndarray) -> Batch:
        ids, mask = pad(sequences, self.pad_id, self.left)
        device = self.device
        return Batch(
            ids.to(device),
            mask.to(device),
            torch.as_tensor(answer_lengths, device=device),
            torch.as_tensor(labels, device=device),
        )


class CausalLM(HuggingFaceTask):
    left = True

    def batch(self, rows: TokenRows, indices: np.ndarray) -> Batch:
        sequences = [rows.row(i) for i in indices]
        lengths = np.array([len(s) for s in sequences], dtype=np.int64) - rows.answer_starts[indices]
        return self._batch(sequences, lengths, rows.labels[indices])

    def _answer_logits(self, batch: Batch) -> Tensor:
        """(n, keep, vocab) logits that predict the last ``keep`` tokens, float32."""
        keep = int(batch.answer_lengths.max()) + 1
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
        if "position_ids" in self.accepted:
            inputs["position_ids"] = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        if "logits_to_keep" in self.accepted:
            inputs["logits_to_keep"] = keep
        logits: Tensor = self.network(**inputs).logits
        return logits[:, -keep:-1].float()

    def row_losses(self, batch: Batch) -> Tensor:
        logits = self._answer_logits(batch)  # (n, a, vocab)
        a = logits.shape[1]
        targets = batch.input_ids[:, -a:]
        losses = cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # (n, a)
        position = torch.arange(a, 0, -1, device=losses.device)  # distance from the end, 1 for the last
        answer = position <= batch.answer_lengths[:, None]
        return (losses * answer).sum(1) / batch.answer_lengths

    def label_scores(self, rows: TokenRows, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        if not rows.label_ids:
            losses = self.row_losses(self.batch(rows, indices)).double().cpu()
            return losses.new_zeros(len(indices), 0), losses
        if all(len(word) == 1 for word in rows.label_ids):
            scores = self._one_token_scores(rows, indices)
        else:
            scores = torch.stack([-self.row_losses(self._with_answer(rows, indices, w)) for w in rows.label_ids], 1)
        scores = scores.double().cpu()
        labels = torch.from_numpy(rows.labels[indices])
        return scores, -scores.gather(1, labels[:, None]).squeeze(1)

    def _with_answer(self, rows: TokenRows, indices: np.ndarray, answer: tuple[int, ...]) -> Batch:
        """The rows with their answers replaced."""
        word = np.array(answer, dtype=np.int32)
        sequences = [np.concatenate([rows.row(i)[: rows.answer_starts[i]], word]) for i in indices]
        return self._batch(sequences, np.full(len(indices), len(word)), rows.labels[indices])

    def _one_token_scores(self, rows: TokenRows, indices: np.ndarray) -> Tensor:
        """One forward pass scores every label word when each is a single token."""
        words = torch.tensor([word[0] for word in rows.label_ids], device=self.device)
        logits = self._answer_logits(self._with_answer(rows, indices, rows.label_ids[0]))[:, -1]
        return logits.log_softmax(-1)[:, words]


class SequenceClassification(HuggingFaceTask):
    left = False

    def batch(self, rows: TokenRows, indices: np.ndarray) -> Batch:
        return self._batch([rows.row(i) for i in indices], np.zeros(len(indices)), rows.labels[indices])

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return logits.float()

    def row_losses(self, batch: Batch) -> Tensor:
        return cross_entropy(self._logits(batch), batch.labels, reduction="none")

    def label_scores(self, rows: TokenRows, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        batch = self.batch(rows, indices)
        scores = self._logits(batch).log_softmax(-1)
        return scores.double().cpu(), -scores.gather(1, batch.labels[:, None]).squeeze(1).double().cpu()
