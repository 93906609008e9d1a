"""The driver's side of a split virtqueue: adds buffers, takes them back (VIRTIO 1.2, 2.7; NetBSD virtio.c).

The table and the driver area are ours; of the device area nothing is trusted.  The state that decides (which
descriptors are free, which heads are out, how much the device may write there) is kept outside of shared memory,
so a lie in the used ring is found, by name, and touches no other buffer.

Context: the caller holds the lock of the queue.
"""

from collections.abc import Sequence

from netstack.hw.virtq_regs import (
    AVAIL_NO_INTERRUPT,
    DESC_BYTES,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    USED_NO_NOTIFY,
    SharedMemory,
    VirtqFault,
    VringLayout,
    barrier,
    need_event,
)

__all__ = ["INDIRECT_ENTRIES", "VirtQueue"]

INDIRECT_ENTRIES = 4  # of the table that every head has
Part = tuple[int, int]  # address, length


class VirtQueue:
    """One queue; its areas are allocated here.

    Args: size -- descriptors, a power of two.   indirect, event_idx -- the features that were negotiated.
    """

    def __init__(
        self, memory: SharedMemory, name: str, size: int, *, indirect: bool = False, event_idx: bool = False
    ) -> None:
        desc = memory.alloc(DESC_BYTES * size, 16)
        driver = memory.alloc(VringLayout.driver_bytes(size))
        device = memory.alloc(VringLayout.device_bytes(size))
        self.layout = VringLayout(memory, name, size, desc, driver, device)
        self.memory = memory
        self.name = name
        self.size = size
        self.indirect = indirect
        self.event_idx = event_idx
        self._tables = memory.alloc(size * INDIRECT_ENTRIES * DESC_BYTES, 16) if indirect else 0
        self.reset()

    def reset(self) -> None:
        """Forget everything that is out: the device has been reset."""
        memory, layout = self.memory, self.layout
        memory.write(layout.driver, bytes(VringLayout.driver_bytes(self.size)))
        memory.write(layout.device, bytes(VringLayout.device_bytes(self.size)))
        self._free = list(range(self.size - 1, -1, -1))
        self._out: dict[int, tuple[list[int], int]] = {}  # head -> its descriptors, bytes the device may write
        self._added = 0  # avail entries written
        self._published = 0  # of these, shown to the device
        self._taken = 0  # used entries taken

    @property
    def outstanding(self) -> int:
        """Chains the device has."""
        return len(self._out)

    @property
    def ready(self) -> int:
        """Chains the device has given back, and that are not taken yet; a claim beyond what is out counts as that."""
        return min((self.memory.u16[self.layout.used_idx] - self._taken) & 0xFFFF, len(self._out))

    def add(self, readable: Sequence[Part], writable: Sequence[Part] = ()) -> int | None:
        """Add a chain; return its head, or None when there are not enough descriptors.

        The device sees it after ``publish``.  With the feature, two to four parts take one descriptor.
        """
        parts = [(address, length, 0) for address, length in readable]
        parts += [(address, length, DESC_WRITE) for address, length in writable]
        is_indirect = self.indirect and 1 < len(parts) <= INDIRECT_ENTRIES
        needed = 1 if is_indirect else len(parts)
        if not parts or needed > len(self._free):
            return None
        taken = [self._free.pop() for _ in range(needed)]
        head = taken[0]
        if is_indirect:
            table = self._tables + head * INDIRECT_ENTRIES * DESC_BYTES
            self._fill(table, list(range(len(parts))), parts)
            self._write(self.layout.desc, head, table, len(parts) * DESC_BYTES, DESC_INDIRECT, 0)
        else:
            self._fill(self.layout.desc, taken, parts)
        self._out[head] = (taken, sum(length for _, length in writable))
        self.memory.u16[self.layout.avail_ring + (self._added & self.layout.mask)] = head
        self._added = (self._added + 1) & 0xFFFF
        return head

    def publish(self) -> bool:
        """Show the device what was added; True: it wants to be notified."""
        old, new = self._published, self._added
        if old == new:
            return False
        self.memory.u16[self.layout.avail_idx] = new
        self._published = new
        barrier()  # our index before the device's wish: it writes the wish and then reads the index
        if self.event_idx:
            return need_event(self.memory.u16[self.layout.avail_event], new, old)
        return not self.memory.u16[self.layout.used_flags] & USED_NO_NOTIFY

    def take(self) -> tuple[int, int] | None:
        """Take back the next chain: its head and the bytes the device wrote; None when there is none.

        Raises: VirtqFault -- the used ring lies: an index too far ahead, a head that is not out, too many bytes.
        """
        layout = self.layout
        ahead = (self.memory.u16[layout.used_idx] - self._taken) & 0xFFFF
        if not ahead:
            return None
        if ahead > len(self._out):
            raise VirtqFault(f"{self.name}: used idx is {ahead} ahead, {len(self._out)} chains are out")
        at = layout.used_ring + 2 * (self._taken & layout.mask)
        head, written = self.memory.u32[at], self.memory.u32[at + 1]
        found = self._out.get(head)
        if found is None:
            raise VirtqFault(f"{self.name}: used ring gives back descriptor {head}, which is not out")
        descriptors, room = found
        if written > room:
            raise VirtqFault(f"{self.name}: used ring claims {written} bytes in a chain of {room}")
        del self._out[head]
        self._free.extend(reversed(descriptors))
        self._taken = (self._taken + 1) & 0xFFFF
        return head, written

    def stop_intr(self) -> None:
        """Ask for no interrupt: a hint, one may still come (NetBSD virtio_stop_vq_intr)."""
        if self.event_idx:
            self.memory.u16[self.layout.used_event] = (self._taken + 0x8000) & 0xFFFF
        else:
            self.memory.u16[self.layout.avail_flags] = AVAIL_NO_INTERRUPT

    def start_intr(self) -> bool:
        """Ask for one when the next chain comes back; True: some have, serve them now (virtio_start_vq_intr)."""
        return self._ask(self._taken)

    def postpone_intr(self) -> bool:
        """Ask for one when three quarters of what is out has come back (virtio_postpone_intr_smart)."""
        return self._ask((self._taken + max(len(self._out) * 3 // 4 - 1, 0)) & 0xFFFF)

    def _ask(self, event: int) -> bool:
        if self.event_idx:
            self.memory.u16[self.layout.used_event] = event
        else:
            self.memory.u16[self.layout.avail_flags] = 0
        barrier()  # the wish before the look
        passed = (self.memory.u16[self.layout.used_idx] - self._taken) & 0xFFFF
        return passed > ((event - self._taken) & 0xFFFF if self.event_idx else 0)

    def _fill(self, table: int, indices: list[int], parts: list[tuple[int, int, int]]) -> None:
        last = len(parts) - 1
        for i, (index, (address, length, flags)) in enumerate(zip(indices, parts, strict=True)):
            after = indices[i + 1] if i < last else 0
            self._write(table, index, address, length, flags | (DESC_NEXT if i < last else 0), after)

    def _write(self, table: int, index: int, address: int, length: int, flags: int, after: int) -> None:
        at = (table - self.memory.base) // 8 + 2 * index
        self.memory.u64[at] = address
        self.memory.u64[at + 1] = length | flags << 32 | after << 48
