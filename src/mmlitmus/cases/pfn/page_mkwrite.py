"""A driver wants to hear of the first store to each of its pages, by ->page_mkwrite. Does it, and what must it know?

A display driver that sends only what has changed maps its pages read-only, notes a page when ->page_mkwrite is asked
about it, and takes the mappings away when it has sent them. A page of a driver's own has no mapping (page->mapping).
One that has none when ->page_mkwrite has said yes is taken for a page that was truncated meanwhile: the store faults
again, and again. Who gives his pages a mapping, or locks them himself (VM_FAULT_LOCKED), is asked once.
"""

from collections.abc import Iterator

from mmlitmus.api import (
    DRIVER,
    GAVE_UP,
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    VM_MIXEDMAP,
    AddressSpace,
    Atomic,
    File,
    Finding,
    Machine,
    Model,
    VmArea,
    VmFault,
    VmOperations,
    always,
    case,
    folio_lock,
    folio_unlock,
    never,
    new_folio,
    releases,
    sometimes,
    unmap_mapping_range,
    vm_flags_set,
    vm_insert_page,
)

WRITABLE = 1 << 1
SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")


class Screen(Model):
    """Is the page to be sent?"""

    __slots__ = ()
    noted = Atomic()


class Display(VmOperations):
    """One page of a frame buffer. ``answers``: what ->page_mkwrite says."""

    answers = VM_FAULT_LOCKED
    gives_mapping = True

    def __init__(self, m: Machine) -> None:
        self.folio = new_folio(m, DRIVER, "the display")
        self.mapping = AddressSpace("fb:mapping")
        self.file = File("/dev/fb0", self, self.mapping)
        self.state = Screen("fb", noted=0)

    def mmap(self, file: File, vma: VmArea) -> int:
        vma.vm_ops = self
        vm_flags_set(vma, VM_MIXEDMAP)
        if self.gives_mapping:
            self.folio.mapping = file.f_mapping
        return 0

    def fault(self, vmf: VmFault) -> int:
        vm_insert_page(vmf.vma, vmf.address, self.folio)
        return VM_FAULT_NOPAGE

    def page_mkwrite(self, vmf: VmFault) -> int:
        if self.answers == VM_FAULT_LOCKED:
            folio_lock(vmf.page.lock)
        self.state.noted = 1
        return self.answers

    def send(self) -> None:
        """Send what has been noted: no store may come by an entry that is there already."""
        if self.state.xchg("noted", 0):
            folio_lock(self.folio.lock)
            unmap_mapping_range(self.mapping, 0, 0)
            folio_unlock(self.folio.lock)


class Unlocked(Display):
    """... that leaves the lock to its caller."""

    answers = 0


class NoMapping(Unlocked):
    """... whose pages have no mapping."""

    gives_mapping = False


class Refuses(Display):
    """... that may only be looked at."""

    answers = VM_FAULT_SIGBUS


class SendsFirst(Display):
    """... that forgets what it has noted when it has sent it, and not before."""

    def send(self) -> None:
        """Unmap, send, forget."""
        unmap_mapping_range(self.mapping, 0, 0)
        self.state.noted = 0


def store(m: Machine, display: type[Display], faults: int = 3) -> None:
    """A load, and a store: what becomes of it."""
    m.faults = faults
    fb = display(m)
    app = m.process("app")
    a = app.mmap(fb.file, 1)
    app.read(a)

    @m.task
    def touch() -> None:
        got = app.write(a)
        m.saw(got)
        m.require(got != GAVE_UP, "store-never-ends", f"after {faults} faults there is no end of them")
        m.require(isinstance(got, str) or fb.state.noted == 1, "not-heard", "the driver has not heard of the store")


@case(
    "pfn/page-mkwrite",
    control="pfn/page-mkwrite/no-mapping",
    asks=("store-never-ends", "not-heard"),
    reach=("touch got through",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def locked(m: Machine) -> None:
    """The driver locks the page. (``pfn/page-mkwrite/no-mapping`` is what it is to be told from.)"""
    store(m, Display)


@case(
    "pfn/page-mkwrite/unlocked",
    control="pfn/page-mkwrite/no-mapping",
    asks=("store-never-ends", "not-heard"),
    reach=("touch got through",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def unlocked(m: Machine) -> None:
    """It does not, and the page has a mapping."""
    store(m, Unlocked)


@case(
    "pfn/page-mkwrite/no-mapping",
    asks=("store-never-ends", "not-heard"),
    expect={**releases("v5.10", "deb-7.3.4", always("store-never-ends"))},
    evidence=SOURCE,
)
def no_mapping(m: Machine) -> None:
    """It does not, and the page has none: ->page_mkwrite is asked again for ever."""
    store(m, NoMapping)


@case(
    "pfn/page-mkwrite/refused",
    control="pfn/page-mkwrite/no-mapping",
    asks=("store-never-ends", "not-heard"),
    reach=("touch got SIGBUS",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def refused(m: Machine) -> None:
    """It says no: SIGBUS. (``pfn/page-mkwrite/no-mapping`` shows what is found where it is not heeded.)"""
    store(m, Refuses)


def send_beside(m: Machine, display: type[Display]) -> None:
    """A store beside the sender: whatever is stored afterwards must be noted."""
    m.faults = 4
    fb = display(m)
    app = m.process("app")
    a = app.mmap(fb.file, 1)
    app.write(a)

    @m.task
    def touch() -> None:
        m.saw(app.write(a))

    @m.task
    def sender() -> None:
        fb.send()

    @m.check
    def noted() -> Iterator[Finding]:
        if app.pte(a) & WRITABLE and not fb.state.peek("noted"):
            yield Finding("invariant", "store-unnoticed", "the page can be stored to, and is not noted")


@case(
    "pfn/page-mkwrite/send",
    control="pfn/page-mkwrite/send-first",
    asks=("store-unnoticed",),
    reach=("touch got through",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def send(m: Machine) -> None:
    """The sender forgets first, then unmaps, with the page locked. (``pfn/page-mkwrite/send-first`` does not.)"""
    send_beside(m, Display)


@case(
    "pfn/page-mkwrite/send-first",
    asks=("store-unnoticed",),
    reach=("touch got through",),
    expect={**releases("v5.10", "deb-7.3.4", sometimes("store-unnoticed"))},
    evidence=SOURCE,
)
def send_first(m: Machine) -> None:
    """It unmaps first, and forgets what was noted meanwhile."""
    send_beside(m, SendsFirst)
