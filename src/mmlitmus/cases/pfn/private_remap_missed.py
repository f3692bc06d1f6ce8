"""Does unmap_mapping_range find a private mapping that remap_pfn_range has filled?

It looks the VMAs up by their file offset, and remap_pfn_range has put the frame number there (pfn/cow-remap). So a zap
of the mapping's own offset passes it by: a driver that revokes in this way leaves every private mapping of the device
behind. A zap of an offset that happens to be the frame number hits it.
"""

from mmlitmus.api import (
    MAP_PRIVATE,
    PAGE_SIZE,
    SIGBUS,
    Machine,
    always,
    case,
    memtypes_at_rest,
    never,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import RESERVED, open_probe

RECORDED = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded")


@case(
    "pfn/private-remap-missed",
    asks=("missed-by-unmap",),
    reach=("a private page was copied",),
    expect={**releases("v5.10", "deb-7.3.4", always("missed-by-unmap"))},
    evidence=RECORDED,
)
def private_remap_missed(m: Machine) -> None:
    """Does unmap_mapping_range find a private mapping that remap_pfn_range has filled?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def zap() -> None:
        a = app.mmap(probe.file("remap"), 4, flags=MAP_PRIVATE)
        app.read(a)
        app.write(a)
        before = app.pte(a)
        probe.unmap_mapping_range(0, 1)
        m.require(app.pte(a) != before, "missed-by-unmap", "page 0 of the file was unmapped, and is still there")


@case(
    "pfn/private-remap-missed/revoked",
    asks=("access-after-disable",),
    reach=("probe is off",),
    expect={**releases("v5.10", "deb-7.3.4", always("access-after-disable"))},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def private_remap_revoked(m: Machine) -> None:
    """... and can a process reach a device through it that was revoked in this way?"""
    probe = open_probe(m, pages=2)
    app = m.process("app")

    @m.task
    def revoke_and_read() -> None:
        a = app.mmap(probe.file("remap"), 2, flags=MAP_PRIVATE)
        probe.unmap_mapping_range(0, 2)
        probe.pdev.power("revoked", False)
        app.read(a)


@case(
    "pfn/private-remap-missed/shared",
    asks=("missed-by-unmap",),
    reach=("page 1 stays",),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.10": always("mmap_assert_locked")},
    evidence=RECORDED,
)
def shared_remap_found(m: Machine) -> None:
    """... and a shared one?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def zap() -> None:
        a = app.mmap(probe.file("remap"), 4)
        app.read(a)
        app.write(a)
        probe.unmap_mapping_range(0, 1)
        found = not app.pte(a) and app.read(a) == SIGBUS
        m.require(found, "missed-by-unmap", "page 0 of the file was unmapped, and is still there")
        if app.pte(a + PAGE_SIZE):
            m.reached("page 1 stays")


@case(
    "pfn/private-remap-missed/frame-number",
    asks=("missed-by-unmap", "untracked-live"),
    reach=("a private page was copied", "page 1 stays"),
    expect={
        **releases("v5.10", "deb-6.12.117", always("untracked-live")),
        "v6.10": always("mmap_assert_locked", "untracked-live"),
        "v5.10": never,
        "v6.1": never,
        "v6.6": never,
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
        **{f"{k} +cow-walk-fix": always("untracked-live") for k in ("v5.10", "v6.1", "v6.6")},
        **releases("v6.16", "deb-7.3.4", never),
    },
    evidence=RECORDED,
)
def frame_number_is_offset(m: Machine) -> None:
    """... and one whose offset in the file is its frame number? Is its reservation given back, with three pages left?

    Page 0 was copied, so that up to 6.8 the untracking takes the copy's frame for the device's, and frees nothing.
    """
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m)
    first, _ = RESERVED
    app = m.process("app")

    @m.task
    def zap() -> None:
        file = probe.file("remap", "wc", "reserved", frame=-first)
        a = app.mmap(file, 4, offset=first + 0x30, flags=MAP_PRIVATE)
        app.read(a)
        app.write(a)
        probe.unmap_mapping_range(first + 0x30, 1)
        m.require(app.read(a) == SIGBUS, "missed-by-unmap", "page 0 of the file was unmapped, and is still there")
        if app.pte(a + PAGE_SIZE):
            m.reached("page 1 stays")
