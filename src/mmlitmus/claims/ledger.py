"""Every ledger, and the claims that words of a command line name."""

from __future__ import annotations

from collections.abc import Sequence

from .claim import Claim
from .own import PREDICTIONS
from .thread_000 import THREAD_000
from .thread_001 import THREAD_001
from .thread_004 import THREAD_004

#: the threads, by the number under which cases name them, and what each is about
THREADS = {
    "000": "mm/x86/pat: Only untrack the pfn range if unmap region (July 2024)",
    "001": "mm: Re-allow pinning of zero pfns (June 2022)",
    "004": "vfio/pci: take mmap write lock for io_remap_pfn_range (2023, 2024)",
    "own": "what no mail says: predictions from source, made before they were run",
}

_ALL: tuple[Claim, ...] = (*THREAD_000, *THREAD_001, *THREAD_004, *PREDICTIONS)


class UnknownClaim(LookupError):
    """A word that names neither a thread nor a claim. Its text is one sentence."""


def every() -> tuple[Claim, ...]:
    """Every claim, thread by thread, in the order in which the threads number them."""
    return _ALL


def select(words: Sequence[str]) -> list[Claim]:
    """The claims that the words name (a thread, or an id in either case), each once, in ledger order.

    No words: every claim. UnknownClaim for a word that names nothing.
    """
    claims = every()
    threads = {one.thread for one in claims}
    ids = {one.id.upper() for one in claims}
    for word in words:
        if word.lower() not in threads and word.upper() not in ids:
            raise UnknownClaim(f"there is no thread or claim {word!r}: {_known(claims)}")
    if not words:
        return list(claims)
    lower, upper = [w.lower() for w in words], [w.upper() for w in words]
    return [one for one in claims if one.thread in lower or one.id.upper() in upper]


def _known(claims: Sequence[Claim]) -> str:
    """The threads with their first and last id."""
    ids: dict[str, list[str]] = {}
    for one in claims:
        ids.setdefault(one.thread, []).append(one.id)
    runs = [f"{thread} ({names[0]} to {names[-1]})" for thread, names in ids.items()]
    return "the threads are " + ", ".join(runs)
