"""The MSI capability of a device (PCI Local Bus 3.0, 6.8.1), and the messages it sends.

What the device signals are compiled sources.  The device replaces the low bits of the message data by
the number of the message, so the vectors of a device are contiguous and aligned.  Source i is message i;
sources beyond the messages that were granted share the last one.
"""

from errno import EINVAL

from netstack._fast.intr import IntrController, IntrSource
from netstack.errors import NetstackError
from netstack.hw.pci_regs import (
    CAP_MSI,
    MSI_CONTROL_64,
    MSI_CONTROL_ENABLE,
    MSI_CONTROL_MASKABLE,
    MSI_MESSAGES_MAX,
    message_cpu,
)

__all__ = ["MsiCapability"]

CONTROL, ADDRESS, UPPER, DATA, MASK, PENDING = 0, 4, 8, 12, 16, 20
GRANTED_SHIFT = 20
OFFERED_SHIFT = 17


class MsiCapability:
    """64-bit addresses, mask bits per message.

    Args: offered -- messages, a power of two up to 32.   sources -- causes of the device, any number.
    """

    ident = CAP_MSI
    nbytes = 24

    def __init__(self, controller: IntrController, sources: list[IntrSource], offered: int = 1) -> None:
        if not 1 <= offered <= MSI_MESSAGES_MAX or offered & (offered - 1):
            raise NetstackError(EINVAL, f"MSI offers 1, 2, 4 ... 32 messages, not {offered}")
        self.sources = sources
        self.offered = offered
        self.is_allowed = True  # bus mastering
        self._controller = controller
        self._words = {ADDRESS: 0, UPPER: 0, DATA: 0, MASK: 0}
        self._control = 0

    @property
    def is_enabled(self) -> bool:
        """Whether the function signals by MSI."""
        return bool(self._control & MSI_CONTROL_ENABLE)

    @property
    def granted(self) -> int:
        """Messages the system granted."""
        return 1 << (self._control >> GRANTED_SHIFT & 7)

    def read(self, offset: int) -> int:
        """Return a word of the capability."""
        if offset == CONTROL:
            offered = (self.offered.bit_length() - 1) << OFFERED_SHIFT
            return self._control | offered | MSI_CONTROL_64 | MSI_CONTROL_MASKABLE
        if offset == PENDING:
            waiting = {self._message(i) for i, source in enumerate(self.sources) if source.pending}
            return sum(1 << message for message in waiting)
        return self._words.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Take a word; routes and masks follow at once.

        Raises: NetstackError(EINVAL) when it would enable messages to an address that is no message
                address, or to a CPU that does not exist: that would be a write to memory.
        """
        before = (self._control, dict(self._words))
        if offset == CONTROL:
            granted = min(value >> GRANTED_SHIFT & 7, self.offered.bit_length() - 1)
            self._control = value & MSI_CONTROL_ENABLE | granted << GRANTED_SHIFT
        elif offset in self._words:
            self._words[offset] = value
        try:
            self.apply()
        except NetstackError:
            self._control, self._words = before
            raise

    def _message(self, number: int) -> int:
        return min(number, self.granted - 1)

    def apply(self) -> None:
        """Follow the words, or a change of the command register."""
        if not self.is_enabled or not self.is_allowed:
            for source in self.sources:
                source.mask()
            return
        cpu = message_cpu(self._words[ADDRESS])
        if cpu is None or self._words[UPPER]:
            raise NetstackError(
                EINVAL, f"MSI address {self._words[UPPER]:#x}:{self._words[ADDRESS]:08x} is not 0xFEEnn000: trapped"
            )
        if cpu >= self._controller.ncpu:
            raise NetstackError(EINVAL, f"MSI address {self._words[ADDRESS]:#x}: there is no CPU {cpu}")
        first = self._words[DATA] & 0xFF & ~(self.granted - 1)
        for number, source in enumerate(self.sources):
            message = self._message(number)
            source.route(cpu, first + message)
            (source.mask if self._words[MASK] >> message & 1 else source.unmask)()
