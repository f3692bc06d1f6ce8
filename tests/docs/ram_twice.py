"""Can one owner's reservation be granted to another at the same moment?

The cases behind docs/findings.md: two tasks reserve one page, of RAM and of memory that is none. Nobody frees.
"""

from mmlitmus.api import PAGE_SHIFT, PAGE_SIZE, Atomic, CacheMode, Machine, MemtypeOwner, Model, case, memtype_reserve
from mmlitmus.kernel.drivers.misc.probe import RAM, RESERVED, open_probe


class Granted(Model):
    """How many owners were told that the page is theirs, with the type that they asked for."""

    __slots__ = ()
    count = Atomic()


def reserve_twice(m: Machine, pfn: int) -> None:
    open_probe(m)
    granted = Granted("granted", count=0)

    def reserve(mode: CacheMode) -> None:
        start = pfn << PAGE_SHIFT
        error, got = memtype_reserve(m, start, start + PAGE_SIZE, mode, True, MemtypeOwner(mode.name))
        if not error and got == mode:
            m.require(granted.add_return("count", 1) == 1, "two-types", "one page is reserved WC and WT")

    @m.task
    def first() -> None:
        reserve(CacheMode.WC)

    @m.task
    def second() -> None:
        reserve(CacheMode.WT)


@case("reserve/ram", ignores=("reserve-ram-failed",))
def ram(m: Machine) -> None:
    reserve_twice(m, RAM[0])


@case("reserve/no-ram")
def no_ram(m: Machine) -> None:
    reserve_twice(m, RESERVED[0])
