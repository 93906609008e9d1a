"""Handles of PCI interrupts, and the vectors behind them (NetBSD pci_intr_handle_t).

A handle owns a resource from its ``alloc`` to its ``release``.  Its vector writes what the specification says
an interrupt is: words of the MSI-X table in device memory, or of the MSI capability in configuration space.
"""

from errno import EBUSY, EINVAL
from typing import Any

from netstack.dev.pci import PciAttachArgs, PciMemory
from netstack.dev.pci_chipset import PciChipset
from netstack.errors import NetstackError
from netstack.hw.pci_regs import (
    CAP_MSI,
    CAP_MSIX,
    MSI_CONTROL_ENABLE,
    MSIX_CONTROL_ENABLE,
    MSIX_ENTRY_BYTES,
    MSIX_ENTRY_MASK,
    message_address,
)
from netstack.machine.api import IntrHandle, Vector

__all__ = ["MsiVector", "MsixVector", "PciIntrHandle", "disestablish", "establish"]


class MsixVector:
    """One entry of a device's MSI-X table, written through its BAR and read back."""

    def __init__(self, table: PciMemory, offset: int, index: int) -> None:
        self._table = table
        self._at = offset + index * MSIX_ENTRY_BYTES

    def route(self, cpu: int, slot: int) -> None:
        """Write address and data.  The entry is masked meanwhile: the two are not one write."""
        control = self._table.read(self._at + 12)
        self._write(12, control | MSIX_ENTRY_MASK)
        self._write(0, message_address(cpu))
        self._write(4, 0)
        self._write(8, slot)
        self._write(12, control)

    def mask(self) -> None:
        """Set the mask bit: messages wait in the pending-bit array."""
        self._write(12, self._table.read(self._at + 12) | MSIX_ENTRY_MASK)

    def unmask(self) -> None:
        """Clear it."""
        self._write(12, self._table.read(self._at + 12) & ~MSIX_ENTRY_MASK)

    def _write(self, field: int, value: int) -> None:
        self._table.write(self._at + field, value)
        self._table.read(self._at + field)  # a posted write has arrived when it can be read back


class MsiVector:
    """One message of a device's MSI capability; with several, address and data are common.

    Args: number -- of the message.   granted -- how many the device has.
    """

    def __init__(self, pa: PciAttachArgs, offset: int, number: int, granted: int) -> None:
        self._pa = pa
        self._at = offset
        self._number = number
        self.is_fixed = granted > 1

    def route(self, cpu: int, slot: int) -> None:
        """Write address and data; data is that of message 0."""
        self._pa.conf_write(self._at + 4, message_address(cpu))
        self._pa.conf_write(self._at + 8, 0)
        self._pa.conf_write(self._at + 12, slot - self._number)

    def mask(self) -> None:
        """Set the message's mask bit."""
        self._pa.conf_write(self._at + 16, self._pa.conf_read(self._at + 16) | 1 << self._number)

    def unmask(self) -> None:
        """Clear it."""
        self._pa.conf_write(self._at + 16, self._pa.conf_read(self._at + 16) & ~(1 << self._number))


class PciIntrHandle:
    """An interrupt a driver has allocated: kind "intx", "msi" or "msix", vector number, text."""

    def __init__(self, pa: PciAttachArgs, kind: str, vector: Vector, number: int, text: str) -> None:
        self.pa = pa
        self.kind = kind
        self.vector = vector
        self.number = number
        self.text = text  # "msix0 vec 3"
        self.is_mpsafe = True
        self.place: tuple[int, int] | None = None  # CPU and slot reserved for an MSI message
        self.cookie: IntrHandle | None = None
        self.is_released = False

    def __repr__(self) -> str:
        state = "released" if self.is_released else "established" if self.cookie else "allocated"
        return f"<PciIntrHandle {self.text} of {self.pa.place}, {state}>"


def establish(ih: PciIntrHandle, level: int, func: Any, arg: Any, xname: str, **compiled: Any) -> IntrHandle:
    """Bind a handler to an allocated interrupt and let the device signal by it.

    Raises: NetstackError -- EINVAL, the handle was released; EBUSY, it has a handler; and what
            ``IntrRegistry.establish`` raises.  Nothing is left established then.
    """
    if ih.is_released:
        raise NetstackError(EINVAL, f"{ih.text}: the handle was released")
    if ih.cookie is not None:
        raise NetstackError(EBUSY, f"{ih.text}: has the handler of {ih.cookie.name}")
    if ih.place is not None:
        compiled["cpu"], compiled["slot"] = ih.place[0], ih.place[1] + ih.number
    compiled.setdefault("mpsafe", ih.is_mpsafe)
    # The function must not signal by two ways at once; what it is to signal by is masked still.
    ih.pa.set_intx(ih.kind == "intx")
    if ih.kind == "intx":
        return _bind(ih, level, func, arg, xname, compiled)
    capability, bit = (CAP_MSIX, MSIX_CONTROL_ENABLE) if ih.kind == "msix" else (CAP_MSI, MSI_CONTROL_ENABLE)
    offset = ih.pa.find_capability(capability)
    assert offset is not None, "a handle was allocated by that capability"
    if ih.kind == "msi":
        ih.vector.route(*(ih.place or (0, 0)))  # the enable bit wants a message address
        ih.vector.mask()
    ih.pa.conf_write(offset, ih.pa.conf_read(offset) | bit)
    return _bind(ih, level, func, arg, xname, compiled)


def disestablish(pc: PciChipset, cookie: IntrHandle) -> None:
    """Take a handler away; on return it is not running and will not run.

    Raises: NetstackError -- EINVAL, no handle of this system has that cookie.
    """
    ih = pc.handles.pop(cookie, None)
    if ih is None:
        raise NetstackError(EINVAL, f"{cookie.name}: disestablished before, or never established by PCI")
    pc.engine.intrs.disestablish(cookie)
    ih.cookie = None


def _bind(
    ih: PciIntrHandle, level: int, func: Any, arg: Any, xname: str, compiled: dict[str, Any]
) -> IntrHandle:
    pc = ih.pa.chipset
    intrs = pc.engine.intrs
    cookie = intrs.establish(ih.vector, level, func, arg, name=xname, intrid=ih.text, **compiled)
    ih.cookie = cookie
    pc.handles[cookie] = ih
    return cookie
