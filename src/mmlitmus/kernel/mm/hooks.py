"""Which hooks a driver may have: those that the model calls. Any other is refused when the driver is made.

A driver's method with the name of a member of struct vm_operations_struct (include/linux/mm.h, 5.10 to 7.3), or of one
of struct file_operations (include/linux/fs.h) that mmap and munmap would come to, is a hook. Where nothing calls it the
answer would be about another driver than the one that was written, so there is none. The same goes for a name that is
a slip of the pen away from a hook's. The system calls that the model has not got (read, ioctl, poll ...) are made by
the case, which calls the driver's method of whatever name.

Of the model's own: table, distance, slip_of, what_is_wrong, check_hook, own_methods, check_hooks.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.scheduler import SetupError

#: the members of both structures that the model calls
CALLED = (
    "access", "close", "fault", "huge_fault", "mapped", "may_split", "mmap", "mprotect", "mremap", "open",
    "page_mkwrite", "pfn_mkwrite",
)  # fmt: skip

#: the members that it never calls: what the kernel does with each, or how to do without
NEVER_CALLED = {
    "find_normal_page": "names the page of a special entry (from 6.18)",
    "find_special_page": "names the page of a special entry (up to 6.17)",
    "flush": "for close(2), which the model has not got",
    "fsync": "for msync(2) and fsync(2)",
    "get_policy": "for NUMA policies, which the model has not got",
    "get_unmapped_area": "chooses the address, which the case does here",
    "map_pages": "maps what is around a fault; the model asks ->fault page by page",
    "mmap_prepare": "from 6.16; map in ->mmap, or in ->mapped",
    "name": "for /proc/PID/maps",
    "pagesize": "for smaps and hugetlb",
    "release": "for the last reference to a file, and files are not counted here",
    "set_policy": "for NUMA policies, which the model has not got",
    "split": "called ->may_split from 5.11 on, and so here",
    "uffd_ops": "for userfaultfd, which the model has not got",
}

#: endings that make another word of a hook's name
INFLECTIONS = ("s", "d", "r", "y", "ed", "er", "_")

#: the drivers that are known to be in order: a machine is built again for every execution
_checked: set[type] = set()


class HookError(SetupError):
    """A driver has a hook that is never called, or something that looks like one. ``at``: file and line."""

    def __init__(self, message: str, at: tuple[str, int] | None) -> None:
        super().__init__(message)
        self.at = at


def table() -> list[str]:
    """The list of what is never called, as docs/model.md prints it."""
    return ["| hook | what it is for |", "|---|---|", *(f"| `->{n}` | {why} |" for n, why in NEVER_CALLED.items())]


def distance(a: str, b: str) -> int:
    """Letters to be inserted, dropped, changed, or swapped with their neighbour to make ``b`` of ``a``."""
    rows: list[list[int]] = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            best = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, rows[i - 2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def slip_of(name: str) -> str:
    """The hook that ``name`` is a slip of the pen away from, or "".

    The first letter is right, or nothing but underscores and capitals is wrong. One letter is inserted, dropped or
    changed (two, in a long name), or two neighbours are swapped. Another word (``closed``) is no slip.
    """
    plain = name.lower().replace("_", "")
    for hook in sorted({*CALLED, *NEVER_CALLED}):
        if any(name == hook + ending for ending in INFLECTIONS) or (hook == name + "s" and not name.endswith("s")):
            continue
        if plain == hook.replace("_", ""):
            return hook
        far = distance(name, hook)
        swapped = far == 1 and sorted(name) == sorted(hook)
        near = far <= (2 if len(hook) >= 9 else 1) and len(hook) >= 5 and name[0] == hook[0]
        if swapped or near:
            return hook
    return ""


def what_is_wrong(name: str) -> str:
    """Why a driver may not have a method of this name; "" if it may."""
    if name.startswith("_") or name in CALLED:
        return ""
    own = f' (a method of the driver\'s own: not_hooks = ("{name}",))'
    if name in NEVER_CALLED:
        return f"the model never calls this hook ({NEVER_CALLED[name]}). It calls {', '.join(CALLED)}{own}"
    hook = slip_of(name)
    return f"no hook has this name; did you mean {hook}?{own}" if hook else ""


def check_hook(owner: str, name: str, value: Any, own: frozenset[str]) -> None:
    """Raise HookError if ``value``, about to be ``owner``'s ``name``, is a hook that nobody would call."""
    function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    if isinstance(function, type) or not callable(function) or name in own:
        return
    wrong = what_is_wrong(name)
    if wrong:
        code = getattr(function, "__code__", None)
        raise HookError(f"{owner}.{name}: {wrong}", (code.co_filename, code.co_firstlineno) if code else None)


def own_methods(driver: type) -> frozenset[str]:
    """The names that a driver, or a class that it is derived from, says are no hooks (``not_hooks``)."""
    return frozenset(name for c in driver.__mro__ for name in vars(c).get("not_hooks", ()))


def check_hooks(driver: type, base: type) -> None:
    """Look at all that ``driver`` has and ``base`` has not, once. Raises HookError."""
    if driver in _checked:
        return
    own = own_methods(driver)
    for c in driver.__mro__:
        if c is not object and c not in base.__mro__:
            for name, value in vars(c).items():
                check_hook(driver.__name__, name, value, own)
    _checked.add(driver)
