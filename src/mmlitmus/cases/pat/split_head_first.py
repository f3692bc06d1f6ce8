"""A mapping is unmapped in two parts, the head first: is all of it given back?

Up to 6.15 there is no free for the head of an entry: "freeing invalid memtype", and the entry stays as it is. The free
of the rest then makes it shorter, down to the head, which nobody has any more: it stays reserved until the next boot.
The patch of July 2024 changes nothing about it. From 6.16 on what is given back is what was reserved.
"""

from mmlitmus.api import (
    PAGE_SIZE,
    CacheMode,
    Machine,
    Process,
    always,
    case,
    memtypes_at_rest,
    never,
    pte_cachemode,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe

LEAK = always("freeing-invalid-memtype", "memtype-leak")


@case(
    "pat/split-head-first",
    scenario="S-PAT-13",
    thread="000",
    claims=("N7",),
    reach=("all is unmapped",),
    expect={
        **releases("v5.10", "deb-6.12.117", LEAK),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", LEAK, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def split_head_first(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        app.munmap(a, 1)
        app.munmap(a + PAGE_SIZE, 3)
        m.reached("all is unmapped")


@case(
    "pat/split-head-first/in-between",
    scenario="S-PAT-13",
    thread="000",
    claims=("N7",),
    reach=("mapped in between", "all is unmapped"),
    expect={
        **releases("v5.10", "deb-6.12.117", LEAK),
        **releases("v6.16", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": LEAK,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def mapped_in_between(m: Machine) -> None:
    """... and what does somebody get who maps the frames in between?

    The type of the part that is still there. A child was forked before, has unmapped all of it, and exited.
    """
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, at="a")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        child = app.fork("child")
        if isinstance(child, Process):
            child.munmap(a, 4)
            child.exit()
        app.munmap(a, 1)
        b = app.mmap(probe.file("remap"), 4, at="b")
        if b > 0:
            m.reached("mapped in between")
            mode = pte_cachemode(app.pte(b + PAGE_SIZE))
            m.require(mode == CacheMode.WC, "wrong-type", f"the second mapping is {mode.name}")
        app.munmap(b, 4)
        app.munmap(a + PAGE_SIZE, 3)
        m.reached("all is unmapped")
