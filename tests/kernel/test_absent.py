"""Everything that is declared to be absent is said by somebody who asks for it, and nothing else is."""

import inspect

import pytest

from mmlitmus.conform import execute
from mmlitmus.explore import findings
from mmlitmus.explore.once import Once
from mmlitmus.kernel import absent, eras
from mmlitmus.kernel.arch.x86.pgtable import PMD_SIZE
from mmlitmus.kernel.drivers.vfio.type1 import VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.drivers.vfio.type1_unmap import vfio_iommu_type1_unmap_dma
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm import mmap
from mmlitmus.kernel.mm.madvise import MADV_COLD, MADV_COLLAPSE, MADV_FREE, MADV_GUARD_INSTALL, MADV_PAGEOUT
from mmlitmus.kernel.uapi import Process


def huge(app, pages=512):
    app.machine.thp = True
    at = app.mmap_anon(pages, at="a")
    assert app.write(at) == 0
    return at


def split(app):
    app.munmap(huge(app), 1)


def read_only(app):
    at = huge(app)
    app.mprotect(at, 512, mmap.PROT_READ)
    app.mprotect(at, 512, mmap.PROT_READ | mmap.PROT_WRITE)
    app.write(at)


def map_twice(app):
    iommu, at, last = VfioIommu(app.machine), app.mmap_anon(2), (1 << 64) - 4096
    assert vfio_dma_do_map(iommu, app, last, at, 4096, 3) == 0
    vfio_dma_do_map(iommu, app, last, at + 4096, 4096, 3)


def swapped(app):
    app.machine.swapon()
    at = app.mmap_anon(1)
    app.write(at)
    app.madvise(at, 1, MADV_PAGEOUT)
    app.mincore(at, 1)


#: how a program asks for what is no call of its own name
ASKS = {
    "shared anonymous memory": lambda app: app.write(app.mmap_anon(1, flags=mmap.MAP_SHARED)),
    "memory of a file": None,  # a step of a recording: tests/conform/test_recordings.py
    "MAP_HUGETLB": lambda app: app.mmap_anon(512, flags=mmap.MAP_PRIVATE | mmap.MAP_HUGETLB),
    "MAP_GROWSDOWN": lambda app: app.mmap_anon(1, flags=mmap.MAP_PRIVATE | mmap.MAP_GROWSDOWN),
    "MAP_STACK": lambda app: app.mmap_anon(1, flags=mmap.MAP_PRIVATE | mmap.MAP_STACK),
    "MAP_DROPPABLE": lambda app: app.mmap_anon(1, flags=mmap.MAP_DROPPABLE),
    "a huge page of a process's own that is split": split,
    "a store to a huge page of a process's own that is read-only": read_only,
    "fork of a process that has huge pages of its own": lambda app: (huge(app), app.fork("child")),
    "VFIO_DMA_UNMAP_FLAG_VADDR": lambda app: vfio_iommu_type1_unmap_dma(VfioIommu(app.machine), 0, 4096, 4),
    "an IOMMU that is told to map what it maps already": map_twice,
    "guard regions": lambda app: app.madvise(app.mmap_anon(1), 1, MADV_GUARD_INSTALL),
    "MADV_FREE beside swap": lambda app: (app.machine.swapon(), app.madvise(app.mmap_anon(1), 1, MADV_FREE)),
    "advice about a huge page of a process's own": lambda app: app.madvise(huge(app), 512, MADV_COLD),
    "mincore of what is not present": swapped,
    "MADV_COLLAPSE": lambda app: app.madvise(app.mmap_anon(PMD_SIZE >> 12), PMD_SIZE >> 12, MADV_COLLAPSE),
}


#: what newer kernels refuse, or do otherwise: the last of the model's that has it
UNTIL = {"an IOMMU that is told to map what it maps already": "v6.16"}


def said(does, spec="v6.12"):
    """The findings of one task that does this."""

    def build():
        machine = Machine(eras.kernel(spec))
        app = machine.process("app")
        machine.task(lambda: does(app), name="task")
        return machine.setup()

    return [f.name for f in Once(build).run().found]


@pytest.mark.parametrize("what", absent.ABSENT)
def test_it_is_said(what):
    asks = ASKS.get(what, lambda app: getattr(app, what)())
    if asks is None:
        assert f'not_modelled("{what}")' in inspect.getsource(execute)
        return
    assert said(asks, UNTIL.get(what, "v7.3")) == [f"not modelled: {what}"]


def test_no_call_is_both_there_and_absent():
    assert not [what for what in absent.ABSENT if hasattr(Process, what)]


def test_what_nobody_declares():
    with pytest.raises(KeyError, match="kernel/absent"):
        absent.not_modelled("a call of no kernel's")
    assert said(lambda app: app.no_such_call()) == ["raised AttributeError"]


def test_the_declarations_are_the_only_way(request):
    """Model code takes the word from kernel/absent.py, so that the list is whole."""
    from pathlib import Path

    root = Path(absent.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.name != "absent.py":
            text = path.read_text()
            assert "findings.not_modelled" not in text, path
            assert "from mmlitmus.explore.findings import not_modelled" not in text, path
    assert findings.NOT_MODELLED == "not modelled: "
