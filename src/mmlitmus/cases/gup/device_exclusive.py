"""A device has a page of a process's for itself, for atomics: who gets the page back, when, and who is told?

The process's entry is replaced by one that is not present; whoever touches the page, or wants to pin it, faults, and
gets it back when the device has been told to do without. The driver has the page locked while it tells the device. That
keeps away who wants it back; it does not keep away who zaps it, and fork does not wait for it.

The driver here is as small as one can be (lib/test_hmm.c has one such): it forgets a page when its notifier is called.
A ``watchful`` one asks, before it tells the device, whether its notifier has been called since it began, or is being
called (as mmu_interval_read_retry does).
"""

from typing import Any

from mmlitmus.api import (
    FOLL_WRITE,
    MADV_DONTNEED,
    FolioLock,
    Machine,
    MmuNotifierRange,
    Model,
    Once,
    Pages,
    Process,
    always,
    case,
    device_has_its_pages,
    folios_at_rest,
    give_back,
    make_device_exclusive,
    mmap_read_lock,
    mmap_read_unlock,
    mmu_notifier_register,
    na,
    never,
    pin_is_coherent,
    releases,
    sometimes,
)

#: Debian builds these two without CONFIG_DEVICE_PRIVATE
WITHOUT = ("deb-6.1.192", "deb-6.12.117")
BUILT = tuple(f"{kernel} DEVICE_PRIVATE" for kernel in WITHOUT)
SOURCE = dict.fromkeys((*BUILT, "deb-7.3.4"), "source")
APART = ("v5.14", "v5.19", "v6.0")
NONE_YET = releases("v5.10", "deb-5.10.262", na("no page can be had by a device alone before 5.14"))


NOT_BUILT = dict.fromkeys(
    WITHOUT, na("Debian's build is without CONFIG_DEVICE_PRIVATE: make_device_exclusive is not in it")
)


def among(first: str, last: str, answer: Any) -> dict[str, Any]:
    """The same answer from ``first`` to ``last``; of a build without it, what it would do with it."""
    found = releases(first, last, answer)
    return {f"{kernel} DEVICE_PRIVATE" if kernel in WITHOUT else kernel: answer for kernel in found}


def everywhere(answer: Any) -> dict[str, Any]:
    """The same answer wherever there is such a thing."""
    return {**NONE_YET, **dict.fromkeys(APART, answer), **among("v6.1", "deb-7.3.4", answer), **NOT_BUILT}


class Device(Model):
    """A device and its driver: the pages that it has for itself."""

    __slots__ = ("mutex", "watchful")
    has = Once()  # ((address, frame), ...); under the mutex
    seq = Once()  # how often the notifier has been called, and has been told that it is over; under the mutex
    active = Once()  # how many of those calls have not ended

    def __init__(self, app: Process, watchful: bool = False) -> None:
        super().__init__("device", has=(), seq=0, active=0)
        # a bit lock, which lockdep does not know: the order of locks is told of what the kernel ships
        self.mutex = FolioLock("device:mutex", "device_mutex")
        self.watchful = watchful
        mmu_notifier_register(self, app.mm)

    def invalidate_range_start(self, range: MmuNotifierRange) -> None:
        """Do without these pages; unless the device is being given them."""
        if range.owner is self:
            return
        self.mutex.lock()
        if self.watchful:
            self.seq = self.seq + 1
            self.active = self.active + 1
        has = self.has
        if any(range.start <= address < range.end for address, _ in has):
            self.has = tuple((address, pfn) for address, pfn in has if not range.start <= address < range.end)
        self.mutex.unlock()

    def invalidate_range_end(self, range: MmuNotifierRange) -> None:
        """Over. Who began meanwhile has seen what was about to change."""
        if range.owner is not self and self.watchful:
            self.mutex.lock()
            self.seq = self.seq + 1
            self.active = self.active - 1
            self.mutex.unlock()

    def release(self, mm: Any) -> None:
        """The process goes, and with it whatever the device has of it."""
        self.mutex.lock()
        self.has = ()
        self.mutex.unlock()

    def take(self, app: Process, address: int) -> bool:
        """Have a page for itself: False if it could not be had, or might be another's by now. As nouveau does, without
        mmap_lock while the device is told.
        """
        pages = Pages("device")
        seq = self.seq if self.watchful else 0
        mmap_read_lock(app.mm)
        make_device_exclusive(app.mm, address, 1, pages, self)
        mmap_read_unlock(app.mm)
        if not pages.folios or pages.folios[0] is None:
            return False
        folio = pages.folios[0]
        self.mutex.lock()
        sure = not self.watchful or (self.seq == seq and not self.active)
        if sure:
            self.has = (*self.has, (address, folio.pfn))
        self.mutex.unlock()
        give_back(folio, "references of device")
        return sure


class Deaf(Device):
    """... whose driver does nothing when its notifier is called."""

    __slots__ = ()

    def invalidate_range_start(self, range: MmuNotifierRange) -> None:
        """The device keeps what it has."""

    def release(self, mm: Any) -> None:
        """Even then."""


def scene(m: Machine, watchful: bool = False, kind: type[Device] = Device) -> tuple[Process, int, Device]:
    """A process with a page of its own, and a device that has the process's notifier."""
    app = m.process("app")
    a = app.mmap_anon(1)
    app.write(a)
    device = kind(app, watchful)
    m.check(lambda: folios_at_rest(m, ("pin",)))
    m.check(lambda: device_has_its_pages(m, app.mm, device.peek("has")))
    return app, a, device


@case(
    "gup/device-exclusive",
    control="gup/device-exclusive/deaf",
    scenario="X24",
    reach=("a device's page was restored", "the page was written"),
    expect=everywhere(never),
    evidence=SOURCE,
)
def pin_of_a_devices_page(m: Machine) -> None:
    """A device has a page for itself; it is pinned for writing, and written: is it the same page, and does the device
    know?
    """
    pin_and_write(m, *scene(m, watchful=True))


@case(
    "gup/device-exclusive/deaf",
    scenario="X24",
    reach=("a device's page was restored", "the page was written"),
    expect=everywhere(always("cpu-and-device")),
    evidence=SOURCE,
)
def pin_of_a_deaf_devices_page(m: Machine) -> None:
    """... and if its driver does nothing when it is told?"""
    pin_and_write(m, *scene(m, kind=Deaf))


def pin_and_write(m: Machine, app: Process, a: int, device: Device) -> None:
    """The device has the page; then it is pinned, and written."""
    device.take(app, a)

    @m.task
    def pin() -> None:
        got, pages = app.pin(a, 1, FOLL_WRITE, how="fast")
        m.require(got == 1, "pin-failed", f"the pin gives {got}")
        app.write(a)
        for finding in pin_is_coherent(m, app.mm, a, pages.pfns[0]):
            m.require(False, finding.name, finding.message)
        m.reached("the page was written")


@case(
    "gup/device-exclusive/pinned",
    control="gup/device-exclusive/deaf",
    scenario="X24",
    reach=("a device's page was restored", "a device has a page for itself"),
    expect=everywhere(never),
    evidence=SOURCE,
)
def pin_beside_the_driver(m: Machine) -> None:
    """... and if it is pinned while the device is being given it? (The device may have a page that is pinned; the
    process does not map it then.)
    """
    app, a, device = scene(m, watchful=True)
    m.task(lambda: device.take(app, a), name="device")

    @m.task
    def pin() -> None:
        got, _ = app.pin(a, 1, FOLL_WRITE, how="fast")
        m.require(got == 1, "pin-failed", f"the pin gives {got}")


@case(
    "gup/device-exclusive/zapped",
    scenario="X13",
    reach=("a device has a page for itself",),
    expect=everywhere(sometimes("stale-device-mapping")),
    evidence=SOURCE,
)
def zap_beside_the_driver(m: Machine) -> None:
    """A page is zapped while the driver has it locked, and tells the device: is the lock enough?"""
    app, a, device = scene(m)
    m.task(lambda: device.take(app, a), name="device")
    m.task(lambda: app.madvise(a, 1, MADV_DONTNEED), name="zap")


@case(
    "gup/device-exclusive/zapped/watchful",
    control="gup/device-exclusive/zapped",
    scenario="X13",
    reach=("a device has a page for itself",),
    expect=everywhere(never),
    evidence=SOURCE,
)
def zap_beside_a_watchful_driver(m: Machine) -> None:
    """... and if the driver asks whether its notifier has been called since it began?"""
    app, a, device = scene(m, watchful=True)
    m.task(lambda: device.take(app, a), name="device")
    m.task(lambda: app.madvise(a, 1, MADV_DONTNEED), name="zap")


@case(
    "gup/device-exclusive/fork",
    scenario="X4",
    thread="003",
    reach=("a device has a page for itself", "forked", "a device's page was restored"),
    expect=everywhere(sometimes("fork-failed-enomem")),
    evidence=SOURCE,
)
def fork_beside_the_driver(m: Machine) -> None:
    """The process forks while the driver has the page locked: does fork wait, or fail?

    It neither waits nor says why: -ENOMEM, with memory to spare.
    """
    app, a, device = scene(m, watchful=True)
    m.task(lambda: device.take(app, a), name="device")

    @m.task
    def fork() -> None:
        child = app.fork("child")
        m.require(isinstance(child, Process), "fork-failed-enomem", f"fork gives {child}, with memory to spare")
        if isinstance(child, Process):
            m.reached("forked")


@case(
    "gup/device-exclusive/exit",
    control="gup/device-exclusive/exit/deaf",
    scenario="X21",
    reach=("the process is gone", "a page was freed"),
    expect=everywhere(never),
    evidence=SOURCE,
)
def exit_with_a_devices_page(m: Machine) -> None:
    """The process exits while the device has its page: is everything given back?"""
    exit_with_it(m, *scene(m))


@case(
    "gup/device-exclusive/exit/deaf",
    scenario="X21",
    reach=("the process is gone", "a page was freed"),
    expect=everywhere(always("stale-device-mapping")),
    evidence=SOURCE,
)
def exit_with_a_deaf_devices_page(m: Machine) -> None:
    """... and if its driver does nothing when it is told?"""
    exit_with_it(m, *scene(m, kind=Deaf))


def exit_with_it(m: Machine, app: Process, a: int, device: Device) -> None:
    """The device gets the page, and the process exits."""

    @m.task
    def leave() -> None:
        m.require(device.take(app, a), "not-given", "the device gets no page")
        app.exit()
        m.reached("the process is gone")


@case(
    "gup/device-exclusive/fault-vs-zap",
    scenario="X12",
    thread="003",
    reach=("a device's page was restored", "a page was freed"),
    expect={
        **everywhere(never),
        **dict.fromkeys((*APART, "v6.1"), sometimes("free-page-locked")),
    },
    evidence=SOURCE,
)
def fault_beside_a_zap(m: Machine) -> None:
    """One thread stores to a page that a device has, and another zaps it: whose page does the fault lock?

    It has looked at the entry without a lock, and before 6.3 (and 6.1's stable) took no reference.
    """
    app, a, device = scene(m)
    device.take(app, a)
    m.faults = 1
    m.task(lambda: app.write(a), name="store")
    m.task(lambda: app.madvise(a, 1, MADV_DONTNEED), name="zap")


@case(
    "gup/device-exclusive/replaced",
    scenario="X6",
    thread="003",
    reach=("a device has a page for itself",),
    expect={
        **NONE_YET,
        **dict.fromkeys(APART, sometimes("not-given")),
        **among("v6.1", "deb-6.12.117", sometimes("not-given")),
        **among("v6.16", "deb-7.3.4", never),
        **NOT_BUILT,
    },
    evidence=SOURCE,
)
def page_replaced_meanwhile(m: Machine) -> None:
    """Another thread replaces the page while the device is to be given it: does the device get one?

    Up to 6.14 it does not, and the driver has to ask again; from 6.15 on the kernel does.
    """
    app, a, device = scene(m, watchful=True)

    @m.task(name="device")
    def take() -> None:
        pages = Pages("device")
        mmap_read_lock(app.mm)
        make_device_exclusive(app.mm, a, 1, pages, device)
        mmap_read_unlock(app.mm)
        (folio,) = pages.folios
        m.require(folio is not None, "not-given", "the device gets no page")
        if folio is not None:
            give_back(folio, "references of device")

    @m.task
    def replace() -> None:
        app.madvise(a, 1, MADV_DONTNEED)
        app.write(a)
