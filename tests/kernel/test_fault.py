"""Faults: signals, and the gate that VFIO has in front of its BARs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore.scheduler import SetupError
from mmlitmus.kernel.drivers.vfio.pci import D0, D3HOT, open_device, share_dev_set
from mmlitmus.kernel.errno import EBUSY, EFAULT, EINVAL, EIO
from mmlitmus.kernel.mm.mm_types import VM_FAULT_NOPAGE, VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV
from mmlitmus.kernel.mm.mmap import PROT_READ

from .world import ERAS, NEW, OLD, PAGE, World, found, run, search

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)


# -- signals ----------------------------------------------------------------------------------------------------------
@everywhere
def test_sigsegv(kernel: str) -> None:
    def body(w: World) -> None:
        assert w.p.read(w(0)) == "SIGSEGV"
        w.p.mmap(w.dev.file, 1, prot=PROT_READ)
        assert w.p.read(w(0)) == 0x010000ED
        assert w.p.write(w(0)) == "SIGSEGV"
        assert w.p.read(w(1)) == "SIGSEGV"

    run(body, kernel)


@both
@pytest.mark.parametrize(
    ("answer", "signal"),
    [
        (VM_FAULT_SIGBUS, "SIGBUS"),
        (VM_FAULT_SIGSEGV, "SIGSEGV"),
        (VM_FAULT_OOM, "gave up"),
        (VM_FAULT_NOPAGE, "gave up"),
    ],
)
def test_what_the_driver_says(kernel: str, answer: int, signal: str) -> None:
    def body(w: World) -> None:
        w.char.on_fault = lambda vmf: answer
        w.p.mmap(w.char.file, 1)
        assert w.p.read(w(0)) == signal

    run(body, kernel, finds=["oom-leaked"] if answer == VM_FAULT_OOM else [])


@both
def test_a_fault_names_the_files_page(kernel: str) -> None:
    def body(w: World) -> None:
        asked: list[Any] = []

        def fault(vmf: Any) -> int:
            asked.append((vmf.address, vmf.pgoff, vmf.flags & 1))
            return VM_FAULT_SIGBUS

        w.char.on_fault = fault
        w.p.mmap(w.char.file, 2, offset=5)
        w.p.write(w(1) + 12)
        assert asked == [(w(1), 6, 1)]

    run(body, kernel)


@everywhere
def test_what_is_there_is_not_asked_for(kernel: str) -> None:
    """Two threads at one page: the driver is asked by whoever found it absent, never for what is present."""
    from mmlitmus.kernel.mm.memory import vmf_insert_pfn

    def build(w: World) -> None:
        def fault(vmf: Any) -> int:
            w.m.require(not w.p.pte(vmf.address), "asked-for-present", "")
            return vmf_insert_pfn(vmf.vma, vmf.address, w.frame())

        w.char.on_fault = fault
        at = w.p.mmap(w.char.file, 1)
        w.p.munmap(at, 1)
        w.p.mmap(w.char.file, 1)

        @w.m.task
        def one() -> None:
            w.m.saw(w.p.read(at))

        @w.m.task
        def two() -> None:
            w.m.saw(w.p.read(at))

    results = search(build, kernel)
    # asked between the other one's look and its insertion: possible; the insertion then finds it populated
    assert found(results) <= {"asked-for-present"}
    assert "the fault was spurious" in results.reached
    assert {"one got through", "two got through"} <= results.reached


def test_fixup_user_fault() -> None:
    def body(w: World) -> None:
        assert w.p.pin_mmio(w(0)) == -EFAULT
        bar = w.bar(1)
        assert w.p.pin_mmio(bar) == 0
        assert w.populated() == "a0"
        assert w.p.pin_mmio(bar) == 0
        w.dev.write_command(memory=False)
        assert w.p.pin_mmio(bar) == -EFAULT
        w.p.mmap(w.dev.file, 1, at="b", prot=PROT_READ)
        assert w.p.pin_mmio(w(0, "b")) == -EFAULT

    run(body)


def test_pinning_without_memory() -> None:
    def body(w: World) -> None:
        assert w.p.pin_mmio(w(0)) in (0, -12)

    run(body, before=lambda w: w.bar(1), once=False, failures=1)


# -- VFIO's gate ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kernel", "filled"),
    [("v5.10", "a0 a1 a2"), (OLD, "a0 a1 a2"), ("v6.9", "a0 a1 a2"), ("v6.10", "a0 a1 a2"), ("v6.12", "a1")],
)
def test_what_one_fault_fills(kernel: str, filled: str) -> None:
    def body(w: World) -> None:
        w.bar(3)
        w.p.read(w(1))
        assert w.populated() == filled

    run(body, kernel)


GATES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "command": (
        lambda dev: dev.write_command(memory=False),
        lambda dev: dev.write_command(memory=True),
        "memory decode off",
    ),
    "d3hot": (lambda dev: dev.write_pm_state(D3HOT), lambda dev: dev.write_pm_state(D0), "D3hot"),
    "low power": (lambda dev: dev.low_power_entry(engage=True), lambda dev: dev.low_power_entry(engage=False), ""),
}


@everywhere
@pytest.mark.parametrize("gate", GATES)
def test_a_closed_gate(kernel: str, gate: str) -> None:
    """Nothing is mapped while it is closed, a touch is SIGBUS, and pages fault back in afterwards."""
    close, open_, reason = GATES[gate]

    def body(w: World) -> None:
        bar = w.bar(2, touch=True)
        assert close(w.dev) == 0
        assert w.populated() == ""
        assert w.p.read(bar) == "SIGBUS"
        assert w.p.write(bar) == "SIGBUS"
        assert w.dev.pdev.off == ((reason,) if reason else ())
        assert w.p.mmap(w.dev.file, 1, at="b") == w(0, "b")  # mapping works all the same
        assert open_(w.dev) == 0
        assert w.populated() == ""
        assert w.p.read(bar) == 0x010000ED
        assert w.p.read(w(0, "b")) == 0x010000ED

    run(body, kernel)


@everywhere
def test_registers_by_read(kernel: str) -> None:
    def body(w: World) -> None:
        assert w.dev.read_register(w.p, 0) == 0x010000ED
        assert w.dev.read_register(w.p, 8) == -EINVAL
        w.dev.write_command(memory=False)
        assert w.dev.read_register(w.p, 0) == -EIO
        w.dev.write_command(memory=True)
        w.dev.write_pm_state(D3HOT)
        assert w.dev.read_register(w.p, 0) == -EIO
        w.dev.write_pm_state(D0)
        w.dev.low_power_entry(engage=True)
        assert w.dev.read_register(w.p, 0) == 0x010000ED  # wakes the device
        assert w.dev.low_power_entry(engage=True) == -EINVAL

    run(body, kernel)


@both
def test_two_gates_at_once(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(1)
        w.dev.write_command(memory=False)
        w.dev.write_pm_state(D3HOT)
        w.dev.write_command(memory=True)
        assert w.p.read(bar) == "SIGBUS"
        w.dev.write_pm_state(D0)
        assert w.p.read(bar) == 0x010000ED

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("how", ["reset", "hot_reset"])
def test_reset(kernel: str, how: str) -> None:
    """Everything is revoked and faults back in; the power state becomes D0, the command bits stay."""

    def body(w: World) -> None:
        bar = w.bar(2, touch=True)
        assert getattr(w.dev, how)() == 0
        assert w.populated() == ""
        assert w.p.read(bar) == 0x010000ED
        w.dev.write_pm_state(D3HOT)
        assert getattr(w.dev, how)() == 0
        assert w.dev.pdev.off == ()
        assert w.p.read(bar) == 0x010000ED
        w.dev.write_command(memory=False)
        assert getattr(w.dev, how)() == 0
        assert w.p.read(bar) == "SIGBUS"

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["v6.6", "v6.10", "v6.12"])
def test_hot_reset_of_a_busy_device(kernel: str) -> None:
    """EBUSY while a register of any of the devices is being read; what was revoked until then stays so."""

    def build(w: World) -> None:
        other = open_device(w.m, pages=1, name="other")
        both_devices = share_dev_set([w.dev, other])
        bar = w.bar(1, touch=True)

        @w.m.task
        def reset() -> None:
            got = both_devices.devices[0].hot_reset()
            w.m.require(got in (0, -EBUSY), "errno", str(got))
            w.m.reached(f"reset {got}")
            if got == -EBUSY:
                w.m.reached(f"{'revoked' if w.p.pte(bar) == 0 else 'not revoked'} all the same")
            w.m.require(w.p.read(bar) == 0x010000ED, "read", "")

        @w.m.task
        def read() -> None:
            other.read_register(w.p, 0)

    results = search(build, kernel)
    assert found(results) == set()
    assert {"reset 0", f"reset {-EBUSY}", "revoked all the same"} <= results.reached


@both
def test_the_zap_reaches_every_mapping(kernel: str) -> None:
    def before(w: World) -> None:
        other = w.m.process("other")
        w.bar(2, touch=True)
        w.p.mmap(w.dev.file, 1, at="b", offset=3)
        w.p.read(w(0, "b"))
        other.mmap(w.dev.file, 4, at="c")
        other.read(w(2, "c"))

    def body(w: World) -> None:
        assert all(list(w.m.translations(mm)) for mm in w.m.mms)
        w.dev.write_command(memory=False)
        assert not any(list(w.m.translations(mm)) for mm in w.m.mms)

    run(body, kernel, before=before)


def test_a_cpu_runs_one_process() -> None:
    """A task that touches another process's memory is a mistake in the set-up, and no finding."""

    def body(w: World) -> None:
        other = w.m.process("other")
        other.mmap(w.dev.file, 1)
        other.read(w(0))

    with pytest.raises(SetupError, match="does not run other"):
        run(body)


@both
def test_what_vfio_lists(kernel: str) -> None:
    """Up to 6.9 a VMA is on the list from its first fault to its zap, its closing, or its being copied."""

    def body(w: World) -> None:
        listed = getattr(w.dev, "vma_list", None)
        if listed is None:
            return
        bar = w.bar(2)
        assert listed.items == []
        w.p.read(bar)
        assert listed.items == [w.vma(bar)]
        w.p.read(bar + PAGE)
        assert len(listed.items) == 1
        w.dev.write_command(memory=False)
        assert listed.items == []
        w.dev.write_command(memory=True)
        w.p.read(bar)
        w.p.munmap(bar, 2)
        assert listed.items == []

    run(body, kernel)
