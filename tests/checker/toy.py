"""A kernel of three releases, small enough to be read at a glance, for testing what lies above the search.

A device has one PTE and a flag. A fault populates the PTE if the device is on; ``disable`` clears it and switches the
device off. v1 takes no lock; v2 and v3 do. The patch ``check-early`` looks at the flag before taking the lock;
``nested`` adds an inversion; the option ``slow`` adds reads.
"""

from __future__ import annotations

import time

from mmlitmus.api import Cells, Finding, Model, Mutex, Once, RwSem, bug, choose, look, reached, report
from mmlitmus.checker import kernels
from mmlitmus.explore import runtime as rt
from mmlitmus.explore.ops import READ_ONCE, WRITE_ONCE
from mmlitmus.explore.scheduler import Setup

RELEASES = ["v1", "v2", "v3"]
PATCHES = {"check-early": "look before locking", "nested": "a second lock, both ways round"}
CONFIGS = {"slow": "a few more reads"}
PTE = 0x8000_0000_FEA0_0237


class ToySpecError(ValueError):
    """An unknown kernel."""


class ToyNotApplicable(Exception):
    """The patch does not apply."""


class Device(Model):
    __slots__ = ()
    on = Once()


class Machine:
    def __init__(self, kernel):
        self.kernel = kernel
        self.tasks = {}
        self.checks = [self.stale]
        self.dev = Device("dev", on=True)
        self.memory_lock = RwSem("memory_lock")
        self.other_lock = Mutex("other_lock")
        self.pte = Cells("pte", [0])

    def task(self, fn):
        self.tasks[fn.__name__] = fn
        return fn

    def check(self, fn):
        self.checks.append(fn)
        return fn

    def stale(self):
        if self.pte.values[0] and not self.dev.peek("on"):
            yield Finding("invariant", "stale-translation", "the PTE still maps the device, which is off")

    def watch(self):
        return {"pte[0]": f"{self.pte.values[0]:#x}" if self.pte.values[0] else "none",
                "dev": "on" if self.dev.peek("on") else "off"}

    def setup(self):
        return Setup(tasks=self.tasks, checks=self.checks, watch=self.watch)


def vfio_fault(m):
    release, patches, config = m.kernel
    early = m.dev.on if "check-early" in patches else None
    if release != "v1":
        m.memory_lock.down_read()
    if "slow" in config:
        for _ in range(6):
            _ = m.dev.on
    if early if early is not None else m.dev.on:
        set_pte(m, PTE)
        reached("fault populated")
    else:
        reached("fault got SIGBUS")
    if "nested" in patches:
        m.other_lock.lock()
        m.other_lock.unlock()
    if release != "v1":
        m.memory_lock.up_read()


def vfio_disable(m):
    release, patches, config = m.kernel
    if "nested" in patches:
        m.other_lock.lock()
    if release != "v1":
        m.memory_lock.down_write()
    m.dev.on = False
    if get_pte(m):
        set_pte(m, 0)
    if release != "v1":
        m.memory_lock.up_write()
    if "nested" in patches:
        m.other_lock.unlock()


def get_pte(m):
    rt.point((READ_ONCE, m.pte.id, ()))
    return m.pte.values[0]


def set_pte(m, entry):
    rt.point((WRITE_ONCE, m.pte.id, ()))
    m.pte.values[0] = entry


class Toy:
    """The provider."""

    spec_error = ToySpecError
    not_applicable = ToyNotApplicable

    def kernel(self, spec):
        release, patches, config = kernels.canonical(spec)
        if release not in RELEASES:
            raise ToySpecError(f"there is no release {release!r}: they are {', '.join(RELEASES)}")
        for name in patches:
            if name not in PATCHES:
                raise ToySpecError(f"there is no patch {name!r}: they are {', '.join(PATCHES)}")
            if release == "v1":
                raise ToyNotApplicable(f"{name} needs the lock of v2")
        for name in config:
            if name not in CONFIGS:
                raise ToySpecError(f"there is no config option {name!r}: they are {', '.join(CONFIGS)}")
        return release, patches, config

    def releases(self):
        return RELEASES

    def apart(self):
        return []

    def patches(self):
        return PATCHES

    def configs(self):
        return CONFIGS

    def about(self, release):
        return "takes no lock" if release == "v1" else "takes memory_lock"

    def configured(self, release):
        return "a toy"

    def choices(self, kernel):
        return {"memory_lock": "taken: toy.c vfio_fault"} if kernel[0] != "v1" else {}

    def machine(self, kernel):
        return Machine(kernel)


def install():
    kernels.use(Toy())


__all__ = ["bug", "choose", "install", "look", "report", "time"]

if __name__ == "__main__":
    import os
    import sys
    from pathlib import Path

    from mmlitmus.checker import load
    from mmlitmus.cli.main import main

    install()
    if "TOY_ROOT" in os.environ:
        load.ROOT = Path(os.environ["TOY_ROOT"])
    sys.exit(main())
