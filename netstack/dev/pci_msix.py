"""MSI-X for drivers: the calls of the paper's appendix A (NetBSD pci_msi(9)).

Context: thread or control thread.
"""

from dataclasses import dataclass
from errno import EINVAL, ENODEV, ENOMEM
from typing import Any

from netstack.dev.pci import PciAttachArgs, PciMemory
from netstack.dev.pci_chipset import PciChipset
from netstack.dev.pci_handle import MsixVector, PciIntrHandle, disestablish, establish
from netstack.dev.pci_msi import check_releasable
from netstack.errors import NetstackError
from netstack.hw.pci_regs import CAP_MSIX, MSIX_CONTROL_ENABLE
from netstack.machine.api import IntrHandle

__all__ = [
    "MsixEntry",
    "pci_msix_alloc",
    "pci_msix_alloc_exact",
    "pci_msix_count",
    "pci_msix_disestablish",
    "pci_msix_establish",
    "pci_msix_establish_xname",
    "pci_msix_release",
]


@dataclass
class MsixEntry:
    """struct msix_entry: the caller chooses the table index, the system sets the handle."""

    me_index: int
    me_handle: PciIntrHandle | None = None


def pci_msix_count(pa: PciAttachArgs) -> int:
    """Return the size of the device's table; 0 without the capability."""
    offset = pa.find_capability(CAP_MSIX)
    return 0 if offset is None else (pa.conf_read(offset) >> 16 & 0x7FF) + 1


def pci_msix_alloc(pa: PciAttachArgs, entries: list[MsixEntry]) -> int:
    """Allocate for as many of ``entries`` as there are vectors, from the first on; return how many.

    Raises: NetstackError -- EINVAL, an index beyond the table, or twice; ENODEV, no MSI-X here; ENOMEM,
            not one is left.
    """
    size = _check(pa, entries)
    count = min(len(entries), size)
    while count:
        try:
            _alloc(pa, entries[:count])
        except NetstackError as error:
            if error.errno != ENOMEM:
                raise
            count -= 1
        else:
            return count
    raise NetstackError(ENOMEM, f"{pa.place}: no interrupt vector is left")


def pci_msix_alloc_exact(pa: PciAttachArgs, entries: list[MsixEntry]) -> None:
    """Allocate for all of ``entries`` or none.

    Raises: NetstackError -- EINVAL, more than the table has, an index beyond it, or twice; ENODEV; ENOMEM.
    """
    size = _check(pa, entries)
    if len(entries) > size:
        raise NetstackError(EINVAL, f"{pa.place} has {size} MSI-X entries, not {len(entries)}")
    _alloc(pa, entries)


def pci_msix_release(handles: list[PciIntrHandle]) -> None:
    """Give entries back.  None may have a handler.

    Raises: NetstackError -- EINVAL, a handler is established, or it was released before.
    """
    check_releasable(handles, "msix")
    for ih in handles:
        ih.is_released = True
        ih.vector.mask()
    if handles:
        pa = handles[0].pa
        pa.chipset.give_vectors(len(handles))
        if pa.chipset.forget_entries(pa.place, len(handles)) == 0:
            offset = pa.find_capability(CAP_MSIX)
            if offset is not None:
                pa.conf_write(offset, pa.conf_read(offset) & ~MSIX_CONTROL_ENABLE)
    handles.clear()


def pci_msix_establish(
    pc: PciChipset, ih: PciIntrHandle, level: int, func: Any, arg: Any, xname: str = "", **compiled: Any
) -> IntrHandle:
    """Bind a handler; it is called as ``func(arg)`` at ``level``.  Returns: the cookie to disestablish.

    The appendix prints a name for this call too; it may be left out.
    """
    return establish(ih, level, func, arg, xname or ih.text, **compiled)


def pci_msix_establish_xname(
    pc: PciChipset, ih: PciIntrHandle, level: int, func: Any, arg: Any, xname: str, **compiled: Any
) -> IntrHandle:
    """The same; the name is what ``intrctl`` shows."""
    return establish(ih, level, func, arg, xname, **compiled)


def pci_msix_disestablish(pc: PciChipset, cookie: IntrHandle) -> None:
    """Take the handler away; waits.  The entry stays allocated."""
    disestablish(pc, cookie)


def _check(pa: PciAttachArgs, entries: list[MsixEntry]) -> int:
    """Return the size of the table; refuse what cannot be asked for."""
    quirk = pa.chipset.quirk(pa.ident)
    if quirk.no_msix:
        raise NetstackError(ENODEV, f"{pa.place}: no MSI-X here ({quirk.part})")
    size = pci_msix_count(pa)
    if not size:
        raise NetstackError(ENODEV, f"{pa.place} has no MSI-X capability")
    indices = [entry.me_index for entry in entries]
    if not indices:
        raise NetstackError(EINVAL, f"{pa.place}: no entries were asked for")
    if len(set(indices)) < len(indices) or not all(0 <= index < size for index in indices):
        raise NetstackError(EINVAL, f"{pa.place}: entries {indices} are not distinct numbers below {size}")
    return size


def _alloc(pa: PciAttachArgs, entries: list[MsixEntry]) -> None:
    table, offset = _table(pa)
    device = pa.chipset.number("msix", pa.place)
    if not pa.chipset.take_vectors(len(entries)):
        raise NetstackError(ENOMEM, f"{pa.place}: {len(entries)} vectors are not left")
    pa.chipset.remember_entries(pa.place, len(entries))
    for number, entry in enumerate(entries):
        vector = MsixVector(table, offset, entry.me_index)
        vector.mask()
        entry.me_handle = PciIntrHandle(pa, "msix", vector, number, f"msix{device} vec {entry.me_index}")


def _table(pa: PciAttachArgs) -> tuple[PciMemory, int]:
    """Return the memory that holds the table, and where in it."""
    at = pa.find_capability(CAP_MSIX)
    assert at is not None
    where = pa.conf_read(at + 4)
    bar, offset = where & 7, where & ~7
    if bar > 5:
        raise NetstackError(EINVAL, f"{pa.place}: its MSI-X table lies behind BAR {bar}, which does not exist")
    memory = pa.map(bar)
    if memory is None:
        raise NetstackError(EINVAL, f"{pa.place}: BAR {bar}, which holds its MSI-X table, has no address")
    return memory, offset
