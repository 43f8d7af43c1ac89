"""Pictures of splits and runs by matplotlib, which comes with ``pip install fedsim[report]``.

Colours are Okabe and Ito's, which people with any colour vision tell apart; lines also differ in style. Every figure
is drawn without global state, so that nothing has to be closed or restored.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.core.errors import DataError
from fedsim.records.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx")
STYLES = ("-", "--", "-.", ":")
WIDTH = 5.2  # inches: readable on a telephone, and two fit beside each other on a screen
NAMES = 9  # points: 8 pixels on a telephone
MANY = 24  # bars or rows beyond which names are thinned out


@dataclass(frozen=True)
class Chart:
    """A figure and what it says in words, for those who do not see it."""

    title: str
    words: str
    figure: Figure

    def svg(self) -> str:
        """An ``<svg>`` element that says ``words`` to a screen reader; nothing in it is fetched."""
        import matplotlib

        out = io.StringIO()
        settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "fedsim", "font.family": "sans-serif"}
        with matplotlib.rc_context(settings):
            self.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        body = out.getvalue()
        body = body[body.index("<svg") :]
        body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
        body = re.sub(r'<g id="[^"]*"', "<g", body)  # several charts stand in one page; what is referred to is a path
        said = f'role="img" aria-label="{_escaped(self.words)}"'
        return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg {said} viewBox="\1">', body, count=1)

    def save(self, path: Path) -> None:
        """Write the picture as a file of its own."""
        write_atomically(path, self.svg().replace("<svg ", f"<svg {NAMESPACES} ", 1))


NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'  # names, never fetched


def heat_map(split: Mapping[str, Any], title: str) -> Chart:
    """Banks x labels: which share of a bank's rows has which label. ``split`` is that of ``split.json``."""
    banks, words = split["banks"], split["label_words"]
    counts = np.array([bank["labels"] for bank in banks], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(height=1.2 + 0.22 * min(len(banks), 60))
    drawn = axes.imshow(shares, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    _ticks(axes.set_yticks, [bank["name"] for bank in banks], 60)
    _ticks(axes.set_xticks, words, MANY, rotation=0 if len(words) <= 6 else 90)
    if len(words) <= 6 and len(banks) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            colour = "black" if share > 0.5 else "white"
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(drawn, ax=axes, label="share of the bank's rows")
    return Chart(
        title, f"{title}: label shares of {len(banks)} banks; label distance {_short(split['label_tv'])}", figure
    )


def embedding_map(split: Mapping[str, Any], title: str) -> Chart:
    """Rows on the two main axes of their embeddings, and each bank's mean; ``split`` has a ``map``."""
    points = np.array(split["map"])  # (k, 3): bank, x, y
    banks, owners = split["banks"], points[:, 0].astype(int)
    rows = np.array([bank["train"] + bank["test"] for bank in banks])
    few = len(banks) <= len(COLOURS)
    figure, axes = _figure(height=4.2)
    if not few:
        axes.scatter(*points[:, 1:].T, s=5, color="#999999", alpha=0.35, linewidth=0)
    for bank in np.unique(owners):
        own = points[owners == bank, 1:]
        mean = own.mean(axis=0)
        if few:
            look: dict[str, Any] = {"color": COLOURS[bank], "marker": MARKERS[bank]}
            axes.scatter(*own.T, s=8, alpha=0.4, linewidth=0, **look)
            axes.scatter(*mean, s=90, edgecolor="white", label=_cut(banks[bank]["name"]), zorder=3, **look)
        else:
            axes.scatter(*mean, s=20 + 380 * rows[bank] / rows.max(), color=COLOURS[0], alpha=0.5, edgecolor="white")
    axes.set(xlabel="first main axis", ylabel="second main axis")
    if few:
        _legend_below(axes, len(banks))
    means = "small: texts; large: the means of banks" if few else "grey: texts; discs: banks at their means, by rows"
    return Chart(title, f"{title}: {means}; distance of texts {_short(split['embedding_shift'])}", figure)


def sizes(split: Mapping[str, Any], title: str) -> Chart:
    """Rows of each bank, train and test."""
    banks = split["banks"]
    figure, axes = _figure(height=1.2 + 0.2 * min(len(banks), 60))
    places, train = np.arange(len(banks)), np.array([bank["train"] for bank in banks])
    axes.barh(places, train, color=COLOURS[0], label="train")
    axes.barh(places, [bank["test"] for bank in banks], left=train, color=COLOURS[4], label="test", hatch="//")
    _rows(axes, [bank["name"] for bank in banks])
    axes.set_xlabel("rows")
    _legend_below(axes, 2)
    words = f"{title}: from {int(train.min())} to {int(train.max())} training rows per bank; Gini {split['gini']:.2f}"
    return Chart(title, words, figure)


def curves(lines: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], x_label: str, y_label: str) -> Chart:
    """By name (x, mean, half width) of a line and its band; a width of NaN has no band."""
    figure, axes = _figure(height=3.4)
    for index, (name, (x, mean, width)) in enumerate(lines.items()):
        colour, style = COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]
        axes.plot(x, mean, style, color=colour, label=name, marker="o", markersize=3)
        axes.fill_between(x, mean - width, mean + width, color=colour, alpha=0.15, linewidth=0)
    means = np.concatenate([mean for _, mean, _ in lines.values()])
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_ylim(_room(means, np.concatenate([width for _, _, width in lines.values()]), least=0.05))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    _legend_below(axes, len(lines))
    last = ", ".join(f"{name} {mean[-1]:.3f}" for name, (_, mean, _) in lines.items())
    return Chart(f"{y_label} by {x_label}", f"{y_label} by {x_label}; at the end {last}", figure)


def gains(names: Sequence[str], gain: np.ndarray, width: np.ndarray, title: str) -> Chart:
    """A bar per bank, below zero where it loses by joining; a NaN width has no whisker."""
    order = np.argsort(-gain, kind="stable")
    names, gain, width = [names[index] for index in order], gain[order], np.nan_to_num(width[order])
    figure, axes = _figure(height=1.2 + 0.2 * min(len(names), 60))
    colours = [COLOURS[1] if value < 0 else COLOURS[0] for value in gain]
    axes.barh(np.arange(len(names)), gain, xerr=width if width.any() else None, color=colours, ecolor="#555555")
    axes.axvline(0, color="black", linewidth=0.8)
    _rows(axes, names)
    axes.set_xlim(_room(np.append(gain, 0.0), np.append(width, 0.0), least=0.02))
    axes.set_xlabel("gain over training alone; lines are 95 % intervals" if width.any() else "gain over training alone")
    lost = int((gain < 0).sum())
    return Chart(
        title, f"{title}: {lost} of {len(names)} banks lose, gains from {gain[-1]:+.3f} to {gain[0]:+.3f}", figure
    )


def traffic(names: Sequence[str], up: np.ndarray, down: np.ndarray) -> Chart:
    """Bytes of a whole run, from banks to server and back, a bar per name."""
    figure, axes = _figure(height=1.3 + 0.25 * min(len(names), 60))
    places = np.arange(len(names))
    axes.barh(places, up / 1e6, color=COLOURS[0], label="up")
    axes.barh(places, down / 1e6, left=up / 1e6, color=COLOURS[4], label="down", hatch="//")
    _rows(axes, names)
    axes.set_xlabel("MB in the whole run")
    _legend_below(axes, 2)
    total = up + down
    most = f"most {names[int(total.argmax())]} ({total.max() / 1e6:.3g} MB), least {names[int(total.argmin())]}"
    return Chart("Bytes sent", f"Bytes sent: {most} ({total.min() / 1e6:.3g} MB)", figure)


def timeline(work: Sequence[Mapping[str, Any]], banks: Sequence[str], title: str) -> Chart:
    """Who trained which bank when: a row per bank, a bar per round, a colour per actor. ``work`` is not empty."""
    actors = list(dict.fromkeys(line["actor"] for line in work))
    begin = min(line["start"] for line in work)
    places = {bank: place for place, bank in enumerate(banks)}
    figure, axes = _figure(height=1.3 + 0.2 * min(len(banks), 60))
    for number, actor in enumerate(actors):
        own = [line for line in work if line["actor"] == actor and line["bank"] in places]
        axes.barh(
            [places[line["bank"]] for line in own],
            [line["seconds"] for line in own],
            left=[line["start"] - begin for line in own],
            height=0.7,
            color=COLOURS[number % len(COLOURS)],
            edgecolor="white",
            linewidth=0.5,
            hatch=HATCHES[number // len(COLOURS) % len(HATCHES)],
            label=f"actor {number + 1}" if number < MANY else None,
        )
    _rows(axes, banks)
    axes.set_xlabel("seconds since the first bank began")
    _legend_below(axes, min(len(actors), MANY), columns=4)
    end = max(line["start"] + line["seconds"] for line in work) - begin
    busy = sum({(line["actor"], line["start"]): line["seconds"] for line in work}.values()) / (end * len(actors))
    told = f"{len(actors)} {'actor' if len(actors) == 1 else 'actors'} trained {len(banks)} banks in {end:.0f} s"
    return Chart(title, f"{title}: {told}, busy with training {busy:.0%} of the time", figure)


def scatter(points: Mapping[str, tuple[float, float, bool]], x_label: str, y_label: str) -> Chart:
    """By name (x, y, whether on the front): filled where no other is better in all."""
    figure, axes = _figure(height=3.4)
    for index, (name, (x, y, front)) in enumerate(points.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.scatter([x], [y], s=60, label=name, facecolor=colour if front else "none", edgecolor=colour, zorder=3)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    _legend_below(axes, len(points))
    best = ", ".join(name for name, point in points.items() if point[2])
    return Chart(f"{y_label} against {x_label}", f"{y_label} against {x_label}; on the front: {best or 'none'}", figure)


def _room(values: np.ndarray, widths: np.ndarray, least: float) -> tuple[float, float]:
    """Limits of an axis for values and their intervals. One that is far wider than the values differ is cut off."""
    low, high, widths = float(values.min()), float(values.max()), np.nan_to_num(widths)
    span = max(high - low, least)
    low, high = max(low - span, (values - widths).min()), min(high + span, (values + widths).max())
    return low - 0.05 * span, high + 0.05 * span


def _figure(height: float) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("pictures need matplotlib; install it with: pip install 'fedsim[report]'") from error
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _ticks(put: Any, names: Sequence[str], most: int, rotation: int = 0) -> None:
    """Names at 0, 1, 2, ..., thinned out evenly when there are too many."""
    step = -(-len(names) // most)
    shown = list(range(0, len(names), step))
    put(shown, [_cut(names[place]) for place in shown], rotation=rotation, fontsize=NAMES)


def _rows(axes: Any, names: Sequence[str]) -> None:
    """A row per name from the top, without empty space around them."""
    _ticks(axes.set_yticks, names, 60)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _legend_below(axes: Any, count: int, columns: int = 1) -> None:
    """A short legend is one line; a longer one has so many columns."""
    axes.figure.legend(loc="outside lower left", ncols=count if count <= 2 else columns, frameon=False, fontsize=NAMES)


def _cut(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;").replace("\\", "\\\\")
