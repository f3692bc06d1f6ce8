"""The architectures: what of one the model knows, and which have the same.

Everything else of the model is x86-64. Source: dossier A.3, from arch/*/Kconfig.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """``words`` switch it on in a kernel's spec; ``about`` says what it has and has not."""

    name: str
    about: str
    words: tuple[str, ...]


ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture(
            "x86-64",
            "special entries and a fast path; so have arm64, powerpc, riscv, s390, loongarch, arm with LPAE",
            (),
        ),
        Architecture("arc", "special entries, no fast path", ("NO_GUP_FAST",)),
        Architecture(
            "arm",
            "arm without LPAE: neither; so have m68k, alpha, um, xtensa and others",
            ("NO_GUP_FAST", "NO_PTE_SPECIAL"),
        ),
    )
}
DEFAULT = "x86-64"
