"""Register files from a text table (paper §5; the way datasheets print them).

A line of a table is ``NAME  offset  [stride x count]  mode  what it is``; modes are RO, RW, WO, RC (read clears) and
W1S/W1C (writing ones sets or clears).  Registers are 32 bits.

Context: control plane of a driver (attach, stop, link).  The data path touches rings and doorbells in memory.
"""

import re
from collections.abc import Callable
from errno import EINVAL
from typing import NamedTuple

from netstack.errors import NetstackError

__all__ = ["Register", "RegisterFile", "parse_table"]

_LINE = re.compile(
    r"(?P<name>\w+)\s+(?P<offset>0x[0-9a-fA-F]+)\s+(?:(?P<stride>0x[0-9a-fA-F]+)x(?P<count>\d+)\s+)?"
    r"(?P<mode>RO|RW|WO|RC|W1S|W1C)\s+(?P<doc>.+)"
)
MASK32 = 0xFFFFFFFF


class Register(NamedTuple):
    """One register or an array of them."""

    name: str
    offset: int
    stride: int
    instances: int
    mode: str
    doc: str


def parse_table(text: str) -> dict[str, Register]:
    """Read a table; ValueError names the line that is none."""
    table: dict[str, Register] = {}
    for line in filter(str.strip, text.splitlines()):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"no register line: {line!r}")
        table[match["name"]] = Register(
            match["name"],
            int(match["offset"], 16),
            int(match["stride"] or "4", 16),
            int(match["count"] or "1"),
            match["mode"],
            match["doc"],
        )
    return table


class RegisterFile:
    """The registers of one device: plain storage, and hooks where reading or writing does something.

    Args: table -- what ``parse_table`` returns.
    """

    def __init__(self, table: dict[str, Register]) -> None:
        self.table = table
        self._at = {r.offset + i * r.stride: (r, i) for r in table.values() for i in range(r.instances)}
        self._value: dict[int, int] = {}
        self._on_write: dict[str, Callable[[int, int], None]] = {}
        self._on_read: dict[str, Callable[[int], int]] = {}

    def on_write(self, name: str, hook: Callable[[int, int], None]) -> None:
        """Call ``hook(index, value)`` after each write of a register."""
        self._on_write[name] = hook

    def on_read(self, name: str, hook: Callable[[int], int]) -> None:
        """Let ``hook(index)`` answer reads of a register."""
        self._on_read[name] = hook

    def offset(self, name: str, index: int = 0) -> int:
        """Return the byte offset of a register; IndexError beyond its array."""
        register = self.table[name]
        if not 0 <= index < register.instances:
            raise IndexError(f"{name} has {register.instances} instances, not {index}")
        return register.offset + index * register.stride

    def read(self, offset: int) -> int:
        """Driver: read 32 bits.

        Raises: NetstackError(EINVAL) where there is no register.
        """
        register, index = self._find(offset)
        hook = self._on_read.get(register.name)
        value = self._value.get(offset, 0) if hook is None else hook(index)
        if register.mode == "RC":
            self._value[offset] = 0
        return 0 if register.mode == "WO" else value & MASK32

    def write(self, offset: int, value: int) -> None:
        """Driver: write 32 bits; a read-only register ignores it.

        Raises: NetstackError(EINVAL) where there is no register.
        """
        register, index = self._find(offset)
        value &= MASK32
        if register.mode in ("RO", "RC"):
            return
        if register.mode == "W1S":
            self._value[offset] = self._value.get(offset, 0) | value
        elif register.mode == "W1C":
            self._value[offset] = self._value.get(offset, 0) & ~value
        else:
            self._value[offset] = value
        hook = self._on_write.get(register.name)
        if hook is not None:
            hook(index, value)

    def get(self, name: str, index: int = 0) -> int:
        """Model: current value, without side effects."""
        return self._value.get(self.offset(name, index), 0)

    def set(self, name: str, value: int, index: int = 0) -> None:
        """Model: store a value, without side effects."""
        self._value[self.offset(name, index)] = value & MASK32

    def _find(self, offset: int) -> tuple[Register, int]:
        found = self._at.get(offset)
        if found is None:
            raise NetstackError(EINVAL, f"no register at offset {offset:#x}")
        return found
