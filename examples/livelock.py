"""Can a retry loop go round for ever?

A long-term pin takes a reference to each of 32 pages, then looks whether all of them may stay where they are. If not,
it drops the references, migrates what must move, and tries again. The first case forgets to migrate. Of the others, the
spinner and the two that give way to each other may go round for ever too, each in its own sense:

    mmlitmus check examples/livelock.py --engine auto -v

Functions with a `loop_point` stand on their own in the file, not inside a case, so that the engine sees them entered.
"""

from mmlitmus.api import Counter, Machine, Model, Mutex, Once, case, loop_point

PAGES = 32


class Folio(Model):
    """A page: its references, and whether a long-term pin may keep it where it is."""

    __slots__ = ()
    refs = Counter()
    stays = Once()


def folios_of(n: int) -> list[Folio]:
    """So many pages, the first of which must move."""
    return [Folio(f"folio#{i}", refs=0, stays=i > 0) for i in range(n)]


def pin_user_pages_longterm(folios: list[Folio], migrate: bool) -> None:
    """do { pin; rc = check_and_migrate; } while (!rc)"""
    while True:
        loop_point(folios, migrate)
        for folio in folios:
            folio.add("refs", 1)
        if check_and_migrate(folios, migrate):
            break


def check_and_migrate(folios: list[Folio], migrate: bool) -> bool:
    """True: all may stay. False: the references are dropped, and what must move has moved."""
    if folios[0].stays:
        return True
    for folio in folios:
        folio.add("refs", -1)
    if migrate:
        folios[0].stays = True
    return False


def pin_and_leak(folios: list[Folio]) -> None:
    """The same, forgetting to drop the references."""
    while True:
        loop_point(folios)
        for folio in folios:
            folio.add("refs", 1)
        if folios[0].stays:
            break


def take_both(first: Mutex, second: Mutex) -> None:
    """Two locks, in whatever order; give way when the second is taken."""
    while True:
        loop_point(first, second)
        first.lock()
        if second.trylock():
            break
        first.unlock()
    second.unlock()
    first.unlock()


def wait_until_it_may_stay(folio: Folio) -> None:
    """Spin."""
    while True:
        loop_point(folio)
        if folio.stays:
            break


@case("examples/pin-never-succeeds")
def pin_never_succeeds(m: Machine) -> None:
    folios = folios_of(PAGES)

    @m.task
    def gup() -> None:
        pin_user_pages_longterm(folios, migrate=False)


@case("examples/pin-migrates")
def pin_migrates(m: Machine) -> None:
    folios = folios_of(PAGES)

    @m.task
    def gup() -> None:
        pin_user_pages_longterm(folios, migrate=True)


@case("examples/pin-leaks")
def pin_leaks(m: Machine) -> None:
    folios = folios_of(2)

    @m.task
    def gup() -> None:
        pin_and_leak(folios)


@case("examples/trylock-ping-pong")
def trylock_ping_pong(m: Machine) -> None:
    a, b = Mutex("a"), Mutex("b")

    @m.task
    def ab() -> None:
        take_both(a, b)

    @m.task
    def ba() -> None:
        take_both(b, a)


@case("examples/spin")
def spin(m: Machine) -> None:
    (folio,) = folios_of(1)

    @m.task
    def waiter() -> None:
        wait_until_it_may_stay(folio)

    @m.task
    def mover() -> None:
        folio.stays = True
