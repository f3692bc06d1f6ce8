"""Can revoke() miss a translation that munmap has cleared but not flushed yet?

A thread unmaps the page while another, whose CPU has the translation cached, reads it. munmap clears the entry, takes
the VMA out of the reverse map, and before 5.19 flushed only then: a revoke() in between finds no VMA to flush for.
"""

from my_driver import MyDriver

from mmlitmus.api import Machine, case, never, releases, sometimes, stale_translations


@case(
    asks=("access-after-disable", "stale-translation"),
    reach=("my is off", "read got through", "munmap returned 0"),
    expect={
        "v5.10": sometimes("access-after-disable"),
        **releases("deb-5.10.262", "deb-7.3.4", never),
        "v6.12 +no-pfnmap-flush": sometimes("access-after-disable"),
    },
)
def revoke_vs_munmap(m: Machine) -> None:
    m.faults = 0  # who reads after the munmap is left alone: no second fault, fewer interleavings
    dev = MyDriver(m, pages=1)
    app = m.process("app")
    address = app.mmap(dev.file, 1)
    app.read(address)  # set-up: nobody else runs yet
    m.check(lambda: stale_translations(m))

    @m.task
    def munmap() -> None:
        m.reached(f"munmap returned {app.munmap(address, 1)}")

    @m.task
    def revoke() -> None:
        dev.revoke()

    @m.task(warm=(address,))
    def read() -> None:
        m.saw(app.read(address))
