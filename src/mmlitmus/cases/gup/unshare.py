"""Do get_user_pages and the fault handler agree about which pages have to be unshared?

From 6.2 on a long-term pin for reading refuses the zero page, and asks the fault handler for a page of the process's
own instead. Both had to be changed together. If the handler does nothing for the zero page, as up to 6.1, the fault
succeeds, the walk finds the same page, and asks again.
"""

from mmlitmus.api import FOLL_LONGTERM, Machine, always, case, folios_at_rest, never, releases

SOURCE = dict.fromkeys(("deb-6.12.117", "deb-7.3.4"), "source")


@case(
    engine="auto",
    scenario="Z8",
    thread="001",
    expect={
        **releases("v6.6", "deb-7.3.4", never),
        **releases("v6.6", "deb-7.3.4", always("hard livelock of pin"), "+unshare-anon-only"),
    },
    evidence=SOURCE,
)
def unshare(m: Machine) -> None:
    """Do get_user_pages and the fault handler agree about which pages have to be unshared?"""
    app = m.process("app")
    a = app.mmap_anon(1)
    app.read(a)
    m.check(lambda: folios_at_rest(m))

    @m.task
    def pin() -> None:
        _, pages = app.pin(a, 1, FOLL_LONGTERM)
        app.unpin(pages)
