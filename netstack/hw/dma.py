"""Host memory as a device sees it: which ring lies at a bus address.

A driver maps the rings it has made; a device finds them by the address it is told in a base register.  An address that
nobody mapped is what it is on hardware behind an IOMMU: a fault, not a read of somebody else's memory.
"""

from errno import EFAULT

from netstack._fast.queue import RxQueue, TxQueue
from netstack.errors import NetstackError

__all__ = ["DmaMap"]


class DmaMap:
    """Rings of one machine by bus address."""

    def __init__(self) -> None:
        self._rings: dict[int, RxQueue | TxQueue] = {}

    def map(self, queue: RxQueue | TxQueue) -> int:
        """Driver: make a queue's ring visible to devices; return its bus address."""
        self._rings[queue.ring.address] = queue
        return queue.ring.address

    def unmap(self, queue: RxQueue | TxQueue) -> None:
        """Driver: take it away; no device may use it any more."""
        self._rings.pop(queue.ring.address, None)

    def ring(self, address: int) -> RxQueue | TxQueue:
        """Device: the ring at an address.  NetstackError(EFAULT) when there is none."""
        queue = self._rings.get(address)
        if queue is None:
            raise NetstackError(EFAULT, f"DMA to {address:#x}: nothing is mapped there")
        return queue
