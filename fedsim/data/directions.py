"""Embeddings as directions: what topics, distances between banks and the map of a split are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def directions(embeddings: np.ndarray) -> np.ndarray:
    """(n, d) float64: centred rows of length 1; a row at the centre stays 0.

    Hidden states of a language model share a large common direction, which says nothing about a text.
    """
    if not len(embeddings):
        return embeddings.astype(np.float64)
    centred = embeddings - embeddings.mean(axis=0, dtype=np.float64)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(lengths > 0, lengths, 1.0))


def distances(points: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """(banks,) half the distance of each bank's mean direction to the pool's, in [0, 1]; ``points`` are directions."""
    pool = points[np.concatenate(rows)].mean(axis=0)
    return np.array([np.linalg.norm(points[own].mean(axis=0) - pool) / 2 for own in rows])


def plane(points: np.ndarray) -> np.ndarray:
    """(n, 2) the two principal components, each with its largest weight positive, so that a map has no free sign."""
    centred = points - points.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    flat = centred @ (axes * signs)
    return np.asarray(np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))))
