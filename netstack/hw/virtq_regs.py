"""Layout of a split virtqueue, and the memory that driver and device share (VIRTIO 1.2, 2.7).

A queue of N descriptors, N a power of two, has three areas:

  descriptors   N x { le64 address, le32 length, le16 flags, le16 next }              aligned to 16
  driver area   le16 flags, le16 idx, N x le16 head, le16 used_event                  aligned to 2   ("avail")
  device area   le16 flags, le16 idx, N x { le32 id, le32 length }, le16 avail_event  aligned to 4   ("used")

Both indices run freely modulo 2^16.  Each side writes one area and reads the other, which it must not trust:
``hw/virtqueue.py`` is the device's side, ``dev/virtqueue.py`` the driver's.

An aligned access of 2, 4 or 8 bytes is one access of the processor; on x86 stores are seen in the order they
were made, and ``barrier`` orders a store before a later load.
"""

import sys
from errno import EINVAL, ENOMEM, EPROTO
from typing import Any

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError

__all__ = [
    "AVAIL_NO_INTERRUPT",
    "DESC_BYTES",
    "DESC_INDIRECT",
    "DESC_NEXT",
    "DESC_WRITE",
    "QUEUE_SIZE_MAX",
    "USED_NO_NOTIFY",
    "SharedMemory",
    "VirtqFault",
    "VringLayout",
    "barrier",
    "need_event",
]

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
DESC_BYTES = 16
AVAIL_NO_INTERRUPT = 1  # flags of the driver area
USED_NO_NOTIFY = 1  # flags of the device area
QUEUE_SIZE_MAX = 32768
PAGE_BYTES = 4096

assert sys.byteorder == "little", "the views below are little-endian"


class VirtqFault(NetstackError):
    """The other side broke a rule of the queue.  The text names queue and rule."""

    def __init__(self, text: str) -> None:
        super().__init__(EPROTO, text)


def need_event(event: int, new: int, old: int) -> bool:
    """Say whether an index that went from ``old`` to ``new`` passed ``event`` (VIRTIO 1.2, 2.7.10)."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def barrier() -> None:
    """Order stores before this against loads after it: taking a lock, here one of our own, is a full fence on x86."""
    SpinLock().try_enter()


class SharedMemory:
    """Memory a device may reach: what is mapped for it in an IOMMU, and nothing else.

    Args: buffer -- writable, as long as a multiple of 8 bytes; or a number of bytes to make one.
          base -- the bus address of its first byte, a multiple of a page.
    """

    def __init__(self, buffer: Any, base: int = 0x1_0000_0000) -> None:
        view = memoryview(bytearray(buffer) if isinstance(buffer, int) else buffer).cast("B")
        if view.readonly or len(view) % 8 or base % PAGE_BYTES:
            raise NetstackError(EINVAL, "shared memory: writable, in words of 8 bytes, from a page's start")
        self.base = base
        self.nbytes = len(view)
        self.u8 = view
        self.u16 = view.cast("H")
        self.u32 = view.cast("I")
        self.u64 = view.cast("Q")
        self._next = 0

    def alloc(self, nbytes: int, align: int = 64) -> int:
        """Driver: return the bus address of zeroed memory.  NetstackError(ENOMEM) when there is not enough."""
        at = -(-self._next // align) * align
        if at + nbytes > self.nbytes:
            raise NetstackError(ENOMEM, f"shared memory of {self.nbytes} bytes has no {nbytes} left")
        self._next = at + nbytes
        return self.base + at

    def contains(self, address: int, nbytes: int) -> bool:
        """Say whether a range lies inside."""
        return self.base <= address and address + nbytes <= self.base + self.nbytes

    def read(self, address: int, nbytes: int) -> bytes:
        """Return bytes of a range that ``contains`` has approved of."""
        at = address - self.base
        return bytes(self.u8[at : at + nbytes])

    def write(self, address: int, data: bytes) -> None:
        """Store bytes into such a range."""
        at = address - self.base
        self.u8[at : at + len(data)] = data


class VringLayout:
    """Where the words of one queue lie, as indices of the views of ``SharedMemory``.

    Args:   size -- descriptors.   desc, driver, device -- bus addresses of the areas.
    Raises: VirtqFault -- a size that is no power of two up to 32768, an area not aligned or not in memory.
    """

    def __init__(self, memory: SharedMemory, name: str, size: int, desc: int, driver: int, device: int) -> None:
        if not 1 <= size <= QUEUE_SIZE_MAX or size & (size - 1):
            raise VirtqFault(f"{name}: a queue of {size} descriptors; powers of two to {QUEUE_SIZE_MAX}")
        areas = {
            "descriptors": (desc, 16, DESC_BYTES * size),
            "driver area": (driver, 2, self.driver_bytes(size)),
            "device area": (device, 4, self.device_bytes(size)),
        }
        for what, (address, align, nbytes) in areas.items():
            if address % align or not memory.contains(address, nbytes):
                raise VirtqFault(f"{name}: {what} at {address:#x}: not aligned to {align}, or not mapped")
        self.memory = memory
        self.name = name
        self.size = size
        self.mask = size - 1
        self.desc, self.driver, self.device = desc, driver, device
        avail, used = driver - memory.base, device - memory.base
        self.desc_bytes_at = desc - memory.base
        self.avail_flags, self.avail_idx, self.avail_ring = avail // 2, avail // 2 + 1, avail // 2 + 2
        self.used_event = self.avail_ring + size
        self.used_flags, self.used_idx, self.used_ring = used // 2, used // 2 + 1, used // 4 + 1  # ring: of u32
        self.avail_event = used // 2 + 2 + 4 * size

    @staticmethod
    def driver_bytes(size: int) -> int:
        """Bytes of a driver area."""
        return 6 + 2 * size

    @staticmethod
    def device_bytes(size: int) -> int:
        """Bytes of a device area."""
        return 6 + 8 * size
