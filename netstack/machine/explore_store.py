"""Store buffers of the exploring machine: one store per CPU that others see late.

A store inside a compiled kernel is in memory at once, so the CPU that made it goes on with it; the
atomic loads of other CPUs are answered with the old value until it becomes visible: when the chooser
says so, at the CPU's next store, at its next fence or read-modify-write, when somebody else writes the
same word, when the CPU leaves the kernel, and before Python code goes on anywhere.  That is the one
reordering of x86 (a later load overtakes an earlier store).  Plain data is not delayed.
"""

from __future__ import annotations

from ctypes import c_uint32, c_uint64

__all__ = ["StoreBuffers"]

KINDS = {4: c_uint32, 8: c_uint64}


class StoreBuffers:
    """The buffers of one machine."""

    def __init__(self, ncpu: int) -> None:
        self.kept = 0  # bits of CPUs whose last store others do not see
        self._entry: list[tuple[int, int, int]] = [(0, 0, 0)] * ncpu  # address, old value, bytes

    def store(self, cpu_index: int, where: int, value: int, nbytes: int) -> None:
        """Do a store that others see late; the one before becomes visible."""
        self.drain(cpu_index)
        self.settle(where, nbytes)
        word = KINDS[nbytes].from_address(where)
        self._entry[cpu_index] = (where, word.value, nbytes)
        self.kept |= 1 << cpu_index
        word.value = value

    def load(self, cpu_index: int, where: int, nbytes: int) -> int | None:
        """Return what a CPU's load finds where another CPU's store is kept; None: what memory has."""
        others = self.kept & ~(1 << cpu_index)
        while others:
            index = (others & -others).bit_length() - 1
            others &= others - 1
            at, old, size = self._entry[index]
            if at == where and size == nbytes:
                return old
            if at < where + nbytes and where < at + size:
                self.drain(index)  # another view of the same bytes
        return None

    def settle(self, where: int, nbytes: int = 8) -> None:
        """Somebody writes these bytes: stores to them come first."""
        bits = self.kept
        while bits:
            index = (bits & -bits).bit_length() - 1
            bits &= bits - 1
            at, _, size = self._entry[index]
            if at < where + nbytes and where < at + size:
                self.drain(index)

    def drain(self, cpu_index: int) -> None:
        """Let a CPU's store become visible."""
        self.kept &= ~(1 << cpu_index)

    def drain_all(self) -> None:
        """Let every store become visible."""
        self.kept = 0
