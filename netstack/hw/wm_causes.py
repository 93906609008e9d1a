"""The causes of a wm NIC that signals by MSI or on a line: ICR, IMS, IMC, ICS (Intel I350 datasheet, 7.3).

Each cause is a compiled source, so the engines raise it like an MSI-X vector.  The cause register shows a
cause that is latched or was sent since it was read last; reading clears it and arms the source again.
"""

from netstack._fast.intr import IntrController, IntrSource
from netstack.hw.regs import RegisterFile
from netstack.hw.wm_regs import ICR_LSC, ICR_RXT0, ICR_TXDW

__all__ = ["WmCauses"]


class WmCauses:
    """The causes of one NIC; ``sources`` by bit of the cause register."""

    def __init__(self, controller: IntrController, regs: RegisterFile) -> None:
        self.sources = {bit: IntrSource(controller) for bit in (ICR_RXT0, ICR_TXDW, ICR_LSC)}
        self._seen = dict.fromkeys(self.sources, 0)
        self._regs = regs
        regs.on_read("ICR", lambda _i: self._read_causes())
        regs.on_write("IMS", lambda _i, value: self._arm(value))
        regs.on_write("IMC", lambda _i, value: self._disarm(value))
        regs.on_write("ICS", lambda _i, value: self._set(value))

    @property
    def is_asserted(self) -> bool:
        """Whether a cause that is not masked waits to be read."""
        mask = self._regs.get("IMS")
        return any(bit & mask and self._is_up(bit) for bit in self.sources)

    def _is_up(self, bit: int) -> bool:
        source = self.sources[bit]
        return source.cause or source.raised != self._seen[bit] or source.pending

    def _read_causes(self) -> int:
        found = 0
        for bit, source in self.sources.items():
            if self._is_up(bit):
                found |= bit
                source.take_cause()
                self._seen[bit] = source.raised
        self._arm(self._regs.get("IMS"))
        return found

    def _arm(self, bits: int) -> None:
        for bit, source in self.sources.items():
            if bits & bit:
                source.enable()

    def _disarm(self, bits: int) -> None:
        self._regs.set("IMS", self._regs.get("IMS") & ~bits)
        for bit, source in self.sources.items():
            if bits & bit:
                source.disable()

    def _set(self, bits: int) -> None:
        for bit, source in self.sources.items():
            if bits & bit:
                source.raise_()
