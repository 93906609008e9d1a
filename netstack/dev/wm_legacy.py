"""The one handler of a wm NIC that signals by MSI or on a line (paper §5.2, §6.2; NetBSD wm_intr_legacy()).

In the classic frame it reads the cause register until no cause is left and receives whatever there is each time:
the loop that, with the limit "ring", keeps a CPU in interrupt context while frames come (paper §6.2).  In the softint
frame it masks the device and leaves receiving and reclaiming to one softint, which opens the mask again.

One queue each way is used.  The first read of the cause register says whether the interrupt is this device's: a line
may be shared.
"""

from typing import Any

from netstack.dev.harddrv import classic_drain
from netstack.dev.queues import RxRing, TxRing
from netstack.dev.softdrv import reclaim, softdrv_drain
from netstack.hw.wm_regs import ICR_LSC, ICR_RXT0, ICR_TXDW
from netstack.machine.api import Softint

__all__ = ["CAUSES", "WmLegacy"]

CAUSES = ICR_RXT0 | ICR_TXDW | ICR_LSC
LIMIT_OF_LOOP = 256  # a drain limit up to a vector is one on the whole activation; "ring" is none


class WmLegacy:
    """Handler and softint of one device.

    Args: regs -- of the device, by name.   link -- called from the hard handler when the link has changed.
    """

    def __init__(self, regs: Any, rx: RxRing, tx: TxRing, link: Any) -> None:
        self._regs = regs
        self._rx = rx
        self._tx = tx
        self._link = link
        self._host = rx.host
        self._softint: Softint | None = None

    def attach(self, name: str, cpu: int) -> None:
        """Establish the handler on the receive ring's interrupt.

        Context: control plane.   Raises: what the registries raise.
        """
        if self._host.frame == "softint":
            self._softint = self._host.engine.softints.establish("net", self._serve, name=f"{name} softint")
            self._rx.softint = self._softint
        self._rx.establish(self._intr, name, "", cpu)

    def detach(self) -> None:
        """Take handler and softint away; waits until neither runs."""
        self._rx.disestablish()
        if self._softint is not None:
            self._host.engine.softints.disestablish(self._softint)
            self._softint = self._rx.softint = None

    def _intr(self, _ring: object) -> bool:
        """Context: hard interrupt.   Returns: whether this device had interrupted."""
        causes = self._read_causes()
        if not causes:
            return False
        if self._softint is not None:
            if causes & ICR_LSC:
                self._link(None)
            self._write("IMC", CAUSES)
            self._host.engine.softints.schedule(self._softint)
            return True
        while causes:
            if causes & ICR_RXT0:
                self._receive()
            if causes & ICR_TXDW:
                reclaim(self._tx)
            if causes & ICR_LSC:
                self._link(None)
            if self._rx.queue.limit <= LIMIT_OF_LOOP:
                break  # a limit on the work of one activation ends the loop too: the line is still asserted
            causes = self._read_causes()
        return True

    def _receive(self) -> None:
        """Take frames up to the limit; what is left is a cause again, also after a slot has raised."""
        more = True
        try:
            more = classic_drain(self._rx)
        finally:
            if more and not self._rx.queue.stopping:
                self._write("ICS", ICR_RXT0)

    def _serve(self, _arg: object) -> None:
        """Context: softint."""
        more = True
        try:
            more = softdrv_drain(self._rx)
        finally:
            reclaim(self._tx)
            self._tx.ifp.driver.doorbell()
            if more and self._softint is not None:
                self._host.engine.softints.schedule(self._softint)
            elif not self._rx.queue.stopping:
                self._write("IMS", CAUSES)

    def _read_causes(self) -> int:
        self._host.engine.charge("intx")
        causes: int = self._regs.read(self._regs.offset("ICR"))
        return causes

    def _write(self, name: str, value: int) -> None:
        self._regs.write(self._regs.offset(name), value)
