"""A hook of a driver is called, or refused when the driver is made; the page about drivers lists those that are called.

The members of the structures were read in include/linux/mm.h and include/linux/fs.h of 5.10, 6.1, 6.12 and 7.3.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmlitmus.api import File, VmOperations
from mmlitmus.checker.case import CaseError
from mmlitmus.checker.load import from_file
from mmlitmus.checker.run import run as ask
from mmlitmus.kernel.mm import hooks
from mmlitmus.kernel.mm.hooks import CALLED, NEVER_CALLED, HookError, slip_of

from .world import run

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-driver.md"

#: struct vm_operations_struct, all releases together
VM_OPERATIONS = (
    "open", "close", "mapped", "split", "may_split", "mremap", "mprotect", "fault", "huge_fault", "map_pages",
    "pagesize", "page_mkwrite", "pfn_mkwrite", "access", "name", "set_policy", "get_policy", "find_special_page",
    "find_normal_page", "uffd_ops",
)  # fmt: skip
#: those of struct file_operations that mmap, munmap and exit come to
FILE_OPERATIONS = ("mmap", "mmap_prepare", "get_unmapped_area", "flush", "release", "fsync")


def make(name: str, value: Any = lambda self, *args: 0, **more: Any) -> type:
    """A driver's class with one more method."""
    return type("Drv", (VmOperations,), {name: value, **more})


def test_every_member_is_called_or_refused() -> None:
    assert sorted({*VM_OPERATIONS, *FILE_OPERATIONS}) == sorted([*CALLED, *NEVER_CALLED])


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_may_be_there(name: str) -> None:
    make(name)


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_is_called(name: str) -> None:
    """The model has a call of it: the table is not only a table."""
    root = Path(hooks.__file__).parents[1]
    text = "".join(p.read_text() for folder in ("mm", "arch", "fs") for p in (root / folder).rglob("*.py"))
    assert re.search(rf"(?:ops|f_op)\.{name}\(", text)


@pytest.mark.parametrize("name", NEVER_CALLED)
def test_what_is_never_called_is_refused(name: str) -> None:
    with pytest.raises(HookError, match=rf"^Drv\.{name}: the model never calls this hook \(.*\(a method of"):
        make(name)
    make(name, not_hooks=(name,))
    make("_" + name)
    make(name, None)
    make(name, "the device's")


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("falut", "fault"), ("faul", "fault"), ("fualt", "fault"), ("hugefault", "huge_fault"), ("Fault", "fault"),
        ("huge_falut", "huge_fault"), ("pfn_mkwirte", "pfn_mkwrite"), ("pfnmkwrite", "pfn_mkwrite"),
        ("page_mkwrtie", "page_mkwrite"), ("may_spilt", "may_split"), ("maysplit", "may_split"), ("mrempa", "mremap"),
        ("clsoe", "close"), ("opne", "open"), ("mamp", "mmap"), ("acces", "access"), ("mproect", "mprotect"),
        ("map_pagse", "map_pages"), ("find_specail_page", "find_special_page"), ("mapepd", "mapped"),
        ("page_write", "page_mkwrite"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen(name: str, hook: str) -> None:
    assert slip_of(name) == hook
    with pytest.raises(HookError, match=f"did you mean {hook}"):
        make(name)
    make(name, not_hooks=(name,))


@pytest.mark.parametrize(
    "name",
    [
        "closed", "opened", "opens", "faults", "faulty", "open_", "map_page", "remap", "remap_all", "unmap", "map",
        "maps", "reset", "revoke", "insert", "populate", "zap", "enable", "disable", "ioctl", "unlocked_ioctl", "read",
        "write", "poll", "fault_locked", "open_device", "close_device", "on_fault", "power", "names", "splice",
        "protect", "lock", "accept", "accesses", "flushes", "free", "alloc", "release_all", "reserve", "resize", "note",
    ],
)  # fmt: skip
def test_a_name_of_the_drivers_own(name: str) -> None:
    assert slip_of(name) == ""
    make(name)


def test_a_base_that_is_no_vm_operations_counts() -> None:
    class Helpers:
        def set_policy(self) -> None: ...

    with pytest.raises(HookError, match=r"Drv\.set_policy"):
        type("Drv", (Helpers, VmOperations), {})

    class Own(Helpers, VmOperations):
        not_hooks = ("set_policy",)

    type("Further", (Own,), {"not_hooks": ("name",), "name": lambda self: 0})


def test_set_on_the_object() -> None:
    driver = make("mmap")()
    driver.name = "its name"
    with pytest.raises(HookError, match=r"Drv\.pagesize"):
        driver.pagesize = lambda vma: 4096


def test_file_operations_that_are_no_vm_operations() -> None:
    class Fops:
        def get_unmapped_area(self, *args: int) -> int:
            return 0

    with pytest.raises(HookError, match=r"Fops\.get_unmapped_area"):
        run(lambda w: None, before=lambda w: File("/dev/x", Fops(), w.char.mapping))


HEAD = "from mmlitmus.api import AddressSpace, File, VmOperations, case\n\n"
FILES = [
    ("class D(VmOperations):\n    x = 1\n\n    def falut(self, vmf):\n        return 0\n", 6,
     "D.falut: no hook has this name; did you mean fault? (a method of the driver's own: not_hooks = (\"falut\",))"),
    ("class D(VmOperations):\n    def name(self, vma):\n        return ''\n", 4,
     "D.name: the model never calls this hook (for /proc/PID/maps). It calls"),
    ("class D:\n    def release(self):\n        pass\n\n@case()\ndef a(m):\n    File('x', D(), AddressSpace('y'))\n", 4,
     "building the machine: HookError: D.release: the model never calls this hook"),
    ("class D:\n    def release(self):\n        pass\n\n\n@case()\ndef a(m):\n    @m.task\n    def t():\n"
     "        File('x', D(), AddressSpace('y'))\n", 4, "D.release: the model never calls this hook"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), FILES)
def test_one_line_that_names_the_hook(text: str, line: int, message: str, tmp_path: Path) -> None:
    """As the command prints it, with exit status 2: where the method is, not where the class is made."""
    file = tmp_path / "drv.py"
    file.write_text(HEAD + text)
    with pytest.raises(CaseError) as error:
        ask(from_file(str(file))[0], "v6.12")
    assert str(error.value).startswith(f"{file}:{line}: "), str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_page_lists_what_is_called() -> None:
    listed = re.findall(r"^\| `(\w+)\([\w, ]*\)` \|", PAGE.read_text(), re.M)
    assert sorted(listed) == sorted(CALLED)
