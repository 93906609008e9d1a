"""The device's side of a split virtqueue: takes chains of descriptors, gives them back (VIRTIO 1.2, 2.7).

Nothing in the queue is trusted.  A chain is copied out of the table and checked whole before any of it is used:
every index below the size of its table, no more descriptors than the queue has (so no loop), what the device may
write after what it may read, memory that is mapped, an indirect table alone in its descriptor, of whole entries,
and not inside another.  What breaks a rule raises ``VirtqFault``; the queue is then as it was before the chain.

Context: the device model, which lets one thread at a time in.
"""

from typing import NamedTuple

from netstack.hw.virtq_regs import (
    AVAIL_NO_INTERRUPT,
    DESC_BYTES,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    USED_NO_NOTIFY,
    VirtqFault,
    VringLayout,
    barrier,
    need_event,
)

__all__ = ["Chain", "DeviceQueue"]


class Chain(NamedTuple):
    """A request of the driver: ``readable`` and ``writable`` are (address, length) in order."""

    head: int
    readable: list[tuple[int, int]]
    writable: list[tuple[int, int]]

    @property
    def room(self) -> int:
        """Bytes the device may write."""
        return sum(length for _, length in self.writable)


class DeviceQueue:
    """One enabled queue.

    Args: layout -- checked.   may_indirect, has_event_idx -- the features that were negotiated.
    """

    def __init__(self, layout: VringLayout, *, may_indirect: bool, has_event_idx: bool, start: int = 0) -> None:
        self.layout = layout
        self.memory = layout.memory
        self.may_indirect = may_indirect
        self.has_event_idx = has_event_idx
        self._taken = start  # avail entries taken
        self._given = start  # used entries given
        self._told = start  # of these, up to which the driver was asked about an interrupt

    @property
    def pending(self) -> int:
        """Chains that wait.  VirtqFault when the driver's index claims more than the queue holds."""
        count = (self.memory.u16[self.layout.avail_idx] - self._taken) & 0xFFFF
        if count > self.layout.size:
            raise self._fault(f"avail idx is {count} ahead")
        return count

    def pop(self) -> Chain | None:
        """Take the next chain; None when there is none.

        Raises: VirtqFault -- a rule is broken; nothing was taken.
        """
        if not self.pending:
            return None
        layout = self.layout
        head = self.memory.u16[layout.avail_ring + (self._taken & layout.mask)]
        if head >= layout.size:
            raise self._fault(f"avail ring names descriptor {head}")
        chain = self._walk(head)
        self._taken = (self._taken + 1) & 0xFFFF
        return chain

    def put_back(self) -> None:
        """Leave the chain that was popped last where it was."""
        self._taken = (self._taken - 1) & 0xFFFF

    def push(self, head: int, written: int) -> None:
        """Give a chain back: the entry first, the index after it."""
        layout = self.layout
        at = layout.used_ring + 2 * (self._given & layout.mask)
        self.memory.u32[at] = head
        self.memory.u32[at + 1] = written
        self._given = (self._given + 1) & 0xFFFF
        self.memory.u16[layout.used_idx] = self._given

    def wants_interrupt(self) -> bool:
        """Say whether the driver is to be interrupted for what was given since the last call."""
        old, self._told = self._told, self._given
        if old == self._given:
            return False
        barrier()  # our index before the driver's wish: it writes the wish and then reads the index
        if self.has_event_idx:
            return need_event(self.memory.u16[self.layout.used_event], self._given, old)
        return not self.memory.u16[self.layout.avail_flags] & AVAIL_NO_INTERRUPT

    def stop_notify(self) -> None:
        """Ask not to be notified: a hint."""
        if not self.has_event_idx:
            self.memory.u16[self.layout.used_flags] = USED_NO_NOTIFY

    def start_notify(self) -> bool:
        """Ask for a notification of the next chain; True: one came meanwhile, look again."""
        if self.has_event_idx:
            self.memory.u16[self.layout.avail_event] = self._taken
        else:
            self.memory.u16[self.layout.used_flags] = 0
        barrier()
        return self.pending > 0

    def gather(self, chain: Chain) -> bytes:
        """Return what the driver wrote."""
        if len(chain.readable) == 1:
            return self.memory.read(*chain.readable[0])
        return b"".join(self.memory.read(*part) for part in chain.readable)

    def scatter(self, chain: Chain, data: bytes) -> int:
        """Write to the driver's buffers; return how many bytes found room."""
        done = 0
        for address, length in chain.writable:
            part = data[done : done + length]
            self.memory.write(address, part)
            done += len(part)
            if done == len(data):
                break
        return done

    def _walk(self, head: int) -> Chain:
        """Check a chain and return it."""
        layout = self.layout
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        table, entries, index, is_inner = layout.desc_bytes_at, layout.size, head, False
        left = layout.size  # descriptors a chain may have
        while True:
            address, length, flags, after = self._descriptor(table, index)
            if flags & DESC_INDIRECT:
                table, entries = self._enter(address, length, flags, is_inner)
                index, is_inner = 0, True
                continue
            left -= 1
            if left < 0:
                raise self._fault(f"chain {head} has more than {layout.size} descriptors, or a loop")
            if not self.memory.contains(address, length):
                raise self._fault(f"chain {head}: {length} bytes at {address:#x} are not mapped")
            if flags & DESC_WRITE:
                writable.append((address, length))
            elif writable:
                raise self._fault(f"chain {head}: readable after writable")
            else:
                readable.append((address, length))
            if not flags & DESC_NEXT:
                return Chain(head, readable, writable)
            if after >= entries:
                raise self._fault(f"chain {head}: next is {after}, of {entries}")
            index = after

    def _enter(self, address: int, length: int, flags: int, is_inner: bool) -> tuple[int, int]:
        """Check an indirect table; return where it is and how many entries it has."""
        if not self.may_indirect:
            raise self._fault("an indirect table that was not negotiated")
        if is_inner:
            raise self._fault("an indirect table inside another")
        if flags & DESC_NEXT:
            raise self._fault("an indirect descriptor with a next one")
        if flags & DESC_WRITE:
            raise self._fault("an indirect table the device may write")
        if not length or length % DESC_BYTES:
            raise self._fault(f"an indirect table of {length} bytes")
        if address % 8 or not self.memory.contains(address, length):
            raise self._fault(f"an indirect table at {address:#x}: not aligned, or not mapped")
        return address - self.memory.base, length // DESC_BYTES

    def _descriptor(self, table: int, index: int) -> tuple[int, int, int, int]:
        """Return address, length, flags, next: each read once, as the driver may change them under us."""
        at = table + DESC_BYTES * index
        word = self.memory.u64[at // 8 + 1]
        return self.memory.u64[at // 8], word & 0xFFFFFFFF, word >> 32 & 0xFFFF, word >> 48

    def _fault(self, text: str) -> VirtqFault:
        return VirtqFault(f"{self.layout.name}: {text}")
