"""Who maps frames that somebody has reserved already: what does he get?

Outside RAM a second reservation is not refused because there is a first: it is an entry more, with the type that is
there, whatever was asked for. Refused is only who would get more caching than he asked for: UC-, WC or WT where the
frames are WB, and WT where they are WC. All releases agree.

The frames are memory kept back at boot: for a BAR the MTRRs would turn every request for WB into one for UC-.
"""

from mmlitmus.api import (
    EINVAL,
    CacheMode,
    Machine,
    always,
    case,
    memtypes_at_rest,
    never,
    pat_memtype_list,
    pte_cachemode,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import CACHES, open_probe

#: (asked for, held) that are refused
REFUSED = (("uc-", ""), ("wc", ""), ("wt", ""), ("wt", "wc"))


@case(
    "pat/second-owner",
    control="pat/second-owner/gone",
    scenario="S-PAT-01",
    thread="000",
    claims=("C000-18", "C000-28"),
    ignores=("expected-mapping-type",),
    reach=("the same type twice", "given another type", "refused"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def second_owner(m: Machine) -> None:
    second_after_first(m, gone=False)


@case(
    "pat/second-owner/gone",
    scenario="S-PAT-01",
    thread="000",
    ignores=("expected-mapping-type",),
    expect=releases("v5.10", "deb-7.3.4", always("wrong-count", "wrong-errno", "wrong-type")),
)
def first_is_gone(m: Machine) -> None:
    """... and if the first has given it back? (He gets what he asks for: the control.)"""
    second_after_first(m, gone=True)


def second_after_first(m: Machine, gone: bool) -> None:
    """Every pair of types; with ``gone`` the first mapping is unmapped before the second is made."""
    probe = open_probe(m)
    app, other = m.process("app"), m.process("other")
    m.check(lambda: memtypes_at_rest(m))

    @m.task(process=other)
    def map_all() -> None:
        for held, mode in CACHES.items():
            a = app.mmap(probe.file("remap", held, "reserved"), 1)
            if gone:
                app.munmap(a, 1)
            for asked in CACHES:
                b = other.mmap(probe.file("remap", asked, "reserved"), 1)
                what = f"asked for {asked or 'wb'} where {held or 'wb'} is held"
                if (asked, held) in REFUSED:
                    m.reached("refused")
                    m.require(b == -EINVAL, "wrong-errno", f"{what}: {b}")
                    continue
                m.reached("the same type twice" if asked == held else "given another type")
                got = pte_cachemode(other.pte(b)) if b > 0 else b
                m.require(got == mode, "wrong-type", f"{what}: {got!r}")
                m.require(len(pat_memtype_list(m)) == 3, "wrong-count", f"{what}: {pat_memtype_list(m)}")
                other.munmap(b, 1)
            if not gone:
                app.munmap(a, 1)
        m.require(len(pat_memtype_list(m)) == 1, "wrong-count", f"in the end: {pat_memtype_list(m)}")


@case(
    "pat/second-owner/three-pairs",
    control="pat/second-owner/gone",
    scenario="S-PAT-01",
    thread="000",
    claims=("C000-18", "C000-28"),
    ignores=("expected-mapping-type",),
    reach=("mapped six times",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def three_pairs(m: Machine) -> None:
    """... in three pairs that were recorded: UC- after WC, WB after WC, WC after WB?"""
    probe = open_probe(m)
    app = m.process("app")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def map_pairs() -> None:
        for region, first, second, expected in (
            ("bar", "wc", "", CacheMode.WC),
            ("reserved", "wc", "", CacheMode.WC),
            ("reserved", "", "wc", -EINVAL),
        ):
            a = app.mmap(probe.file("remap", first, region), 4, at="a")
            b = app.mmap(probe.file("remap", second, region), 4, at="b")
            got = pte_cachemode(app.pte(b)) if b > 0 else b
            m.require(got == expected, "wrong-type", f"{region}: {second or 'wb'} after {first or 'wb'} is {got!r}")
            if b > 0:
                app.munmap(b, 4)
            app.munmap(a, 4)
        m.reached("mapped six times")
