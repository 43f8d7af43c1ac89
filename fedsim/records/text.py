"""Numbers as people read them: at most seven characters, so that a table of them fits a terminal."""

from __future__ import annotations

import math

UNKNOWN = "-"


def human_bytes(count: int) -> str:
    """Decimal units, three digits: ``999 B``, ``1.20 kB``, ``123 MB``."""
    if count < 1000:
        return f"{count} B"
    value, units = count / 1000, ["TB", "GB", "MB", "kB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop()
    return f"{_three_digits(value)} {units[-1]}"


def human_seconds(seconds: float) -> str:
    """``2.1 s``, ``42 s``, ``3m 12s``, ``2h 05m``, ``3d 04h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole // 60 % 60:02d}m"
    return f"{whole // 86400}d {whole // 3600 % 24:02d}h"


def human_metric(value: float | None) -> str:
    """Three decimals, four digits from 100 on; ``-`` for what is not known."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def human_epsilon(value: float | None) -> str:
    """Three digits; ``-`` where nothing is promised."""
    return UNKNOWN if value is None or not math.isfinite(value) else _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 or value == 0 else f"{value:#.3g}"


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` characters, ended by two dots where cut; ``?`` for what a terminal would obey."""
    line = "".join(character if character.isprintable() else "?" for character in text)
    return line if len(line) <= width else line[: width - 2].rstrip() + ".."
