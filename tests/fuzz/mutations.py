"""Ways to break a file. All draws come from the ``Random`` that is given, so that a seed is the whole example."""

from __future__ import annotations

import re
from random import Random

VALUES = [
    *("", "~", "true", "no", "-1", "0", "1e400", ".nan", "-.inf", "010", "'8'", "[]", "{}", "[[1]]", "{kind: x}"),
    *("*a", "&a 1", "!!str x", "!!python/name:os.system", "{kind: 3}", "a: b", "\t", "'", '"\\0"', "x" * 300),
    *("9" * 401, "9" * 30, "1e-320", "../../etc/passwd", "/dev/zero", "os:system", "os.path:join", "é", "\u2028"),
    *("[1, 2, 3]", "0.5", "{}{}", "ray://x:1", "|", "> x", "--- 1", "{a: {a: {a: {a: 1}}}}", "2147483648"),
]


def broken_yaml(text: str, rng: Random) -> bytes:
    """One to three of: a line dropped, moved, renamed, indented or cut, a value or number or character changed."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = text.splitlines(keepends=True) or ["\n"]
        place = rng.randrange(len(lines))
        action = rng.randrange(12)
        if action == 0:
            del lines[place]
        elif action == 1:
            lines.insert(rng.randrange(len(lines)), lines[place])
        elif action == 2:
            lines[place] = re.sub(r"(\w)(\w*):", rf"\g<2>{rng.choice('xyz-.')}:", lines[place], count=1)
        elif action in (3, 4):  # any key of the line, most lines have several
            keys = list(re.finditer(r": *[^:,}\n]+", lines[place]))
            if keys:
                key, value = rng.choice(keys), rng.choice(VALUES)
                lines[place] = f"{lines[place][: key.start()]}: {value}{lines[place][key.end() :]}"
        elif action == 5:
            lines[place] = "  " + lines[place]
        elif action == 6:
            lines[place] = lines[place][: rng.randrange(len(lines[place]))]
        elif action >= 8:
            lines[place] = rescaled(lines[place], rng)
        else:
            lines[place] = lines[place].replace(rng.choice("abcdeiou:,{}[]"), rng.choice("ab:{}[]#&*!|>'\"%@`\n\t"), 1)
        text = "".join(lines)
    return flipped(text.encode(), rng) if rng.random() < 0.2 else text.encode()


def rescaled(line: str, rng: Random) -> str:
    """One of the line's numbers is another: still a number, mostly of the same type, often no longer sensible."""
    numbers = list(re.finditer(r"(?<![\w.])\d+(\.\d+)?(e-?\d+)?", line))
    if not numbers:
        return line
    number, factor = rng.choice(numbers), rng.choice((0, 0.1, 0.5, 2, 10, 100, -1))
    value = float(number[0]) * factor
    text = str(int(value)) if number[0].isdigit() and value == int(value) else repr(value)
    return line[: number.start()] + text + line[number.end() :]


def flipped(body: bytes, rng: Random) -> bytes:
    """One byte is another."""
    changed = bytearray(body)
    if changed:
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def broken(body: bytes, rng: Random) -> bytes:
    """Bytes flipped, cut out, doubled, zeroed, cut off or added."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        until = min(len(body), at + rng.choice((1, 2, 7, 64)))
        action = rng.randrange(7)
        if action <= 1:
            body = flipped(body, rng)
        elif action == 2:
            body = body[:at] + body[until:]
        elif action == 3:
            body = body[:at] + body[at:until] + body[at:]
        elif action == 4:
            body = body[:at] + bytes(until - at) + body[until:]
        elif action == 5:
            body = body[:at]
        else:
            body = body[:at] + rng.randbytes(rng.randint(1, 9)) + body[at:]
    return body
