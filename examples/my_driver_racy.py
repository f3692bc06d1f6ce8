"""... and if a fault lets go of the lock between the check and the insertion?

The classic bug: ``alive`` is read under the lock, and acted on outside it.
"""

from my_driver import MyDriver, ask

from mmlitmus.api import VM_FAULT_SIGBUS, Machine, VmFault, case, down_read, up_read, vmf_insert_pfn


class RacyDriver(MyDriver):
    """MyDriver with another ->fault."""

    def fault(self, vmf: VmFault) -> int:
        down_read(self.sem)
        alive = self.state.alive
        up_read(self.sem)
        if not alive:
            return VM_FAULT_SIGBUS
        return vmf_insert_pfn(vmf.vma, vmf.address, self.pdev.bars[0].pfn + vmf.pgoff)


@case(reach=("my is off", "touch got through", "touch got SIGBUS"))
def revoke_vs_touch(m: Machine) -> None:
    ask(m, RacyDriver(m, pages=1))
