"""Laying out plain text: wrapping that keeps names whole, and the mark on what could pass for a kernel's log."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Sequence

#: what an e-mail leaves for a quoted reply
MAIL = 75


def not_a_log(kernel: str) -> str:
    """The first line of anything that looks like a kernel's log."""
    return f"[mmlitmus model {kernel}, not a kernel log]"


def many(n: int, what: str) -> str:
    """``1 trace``, ``2 traces``."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def titled(kind: str, name: str) -> str:
    """A finding's kind and name, without saying the same twice."""
    return name if name.replace(" ", "-").startswith(kind) else f"{kind} {name}"


def wrap(text: str, width: int, hang: str = "  ") -> list[str]:
    """The text in lines of at most ``width``; later lines begin with ``hang``. Breaks at spaces, else at / _ - . only
    when it must."""
    lines = textwrap.wrap(
        text, width, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    ) or [""]
    out: list[str] = []
    for line in lines:
        while len(line) > width:
            at = _break(line, width, len(hang))
            out.append(line[:at].rstrip())
            line = hang + line[at:].lstrip()
        out.append(line)
    return out


def shell(words: Sequence[str], width: int, hang: str = "    ") -> list[str]:
    """A command over several lines that a shell still takes. A schedule may be broken at its spaces, quoted or not."""
    pieces: list[tuple[str, bool]] = []  # (text, does it end its word)
    for word in words:
        quoted = shlex.quote(word)
        parts = quoted.split(" ") if ";" in word or ">" in word else [quoted]
        pieces += [(part, n == len(parts) - 1) for n, part in enumerate(parts)]
    lines = [""]
    between = False
    for text, ends in pieces:
        if not text:
            continue  # one space is as good as two
        line = lines[-1]
        if line.strip() and len(line) + 1 + len(text) > width - 2:
            lines[-1] = line + " \\" if between else line
            lines.append(hang + text)
        else:
            lines[-1] = f"{line} {text}" if line else text
        between = ends
    return lines


def _break(line: str, width: int, least: int) -> int:
    """Where to cut a line that has no space in the right place."""
    for signs in (r"[(/:,;>]", r"[_.+-]"):
        ends = [m.end() for m in re.finditer(signs, line[:width]) if m.end() > max(least + 4, width // 3)]
        if ends:
            return ends[-1]
    return width
