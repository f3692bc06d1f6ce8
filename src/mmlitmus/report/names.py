"""docs/names.md: every finding and every mark by name, made of ``kernel/findings.py``; a test compares."""

from __future__ import annotations

from mmlitmus.kernel.findings import FINDINGS, KINDS, MARKS


def document() -> str:
    """docs/names.md."""
    lines = [
        "<!-- made by `python -m mmlitmus.report.names`; a test compares -->",
        "# Names",
        "",
        "Every finding that the package can report, and every mark that it makes for a case's `reach`, as",
        "`src/mmlitmus/kernel/findings.py` declares them. `{...}` stands for what varies. What a case finds by itself",
        "(`m.require`, a check of its own, a driver's `BUG_ON`) and the marks that it makes are its own names",
        "([writing-a-case.md](writing-a-case.md)).",
        "",
        "## Kinds",
        "",
        "*Always*: a kernel complains of it by itself, so it counts in every case, whatever the case asks about.",
        "*Where asked*: `asks` narrows it.",
        "",
        "| kind | counts | what it is |",
        "|---|---|---|",
    ]
    for kind, (says, always) in KINDS.items():
        lines.append(f"| `{kind}` | {'always' if always else 'where asked'} | {says} |")
    lines += ["", "## Findings", "", "| name | kind | what it says |", "|---|---|---|"]
    order = {kind: n for n, kind in enumerate(KINDS)}
    for one in sorted(FINDINGS, key=lambda one: (order.get(one.kind, len(order)), one.name)):
        lines.append(f"| `{one.name}` | {one.kind} | {one.says} |")
    lines += ["", "## Marks", "", *(f"- `{mark}`" for mark in sorted(MARKS))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
