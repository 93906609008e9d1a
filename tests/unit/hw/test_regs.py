"""Register files from a text table: modes, arrays, hooks (paper §5)."""

from errno import EINVAL

import pytest

from netstack.errors import NetstackError
from netstack.hw.regs import Register, RegisterFile, parse_table

TABLE = parse_table("""
    CTRL     0x0000          RW   plain
    STATUS   0x0008          RO   written by the model
    CAUSE    0x0010          RC   reading clears

    SET      0x0020          W1S  ones set
    CLEAR    0x0024          W1C  ones clear
    KICK     0x0030          WO   reads as zero
    RING     0x0100  0x40x3  RW   an array
""")


@pytest.fixture
def regs() -> RegisterFile:
    return RegisterFile(TABLE)


def test_a_line_is_a_register() -> None:
    assert TABLE["RING"] == Register("RING", 0x100, 0x40, 3, "RW", "an array")
    assert TABLE["CTRL"] == Register("CTRL", 0, 4, 1, "RW", "plain")
    assert len(TABLE) == 7


@pytest.mark.parametrize(
    "line", ["CTRL 0x0 XX what", "CTRL RW what", "CTRL 0x0 RW", "RING 0x0 40x4 RW what"]
)
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="no register line") as caught:
        parse_table(f"OK 0x0 RW fine\n  {line}\n")
    assert line in str(caught.value)


def test_plain_registers_are_32_bits(regs: RegisterFile) -> None:
    assert regs.read(0) == 0
    regs.write(0, 0x1_2345_6789)
    assert regs.read(0) == 0x2345_6789


def test_modes(regs: RegisterFile) -> None:
    regs.set("STATUS", 7)
    regs.write(8, 99)
    assert regs.read(8) == 7
    regs.set("CAUSE", 5)
    regs.write(0x10, 99)
    assert [regs.read(0x10), regs.read(0x10)] == [5, 0]
    regs.write(0x20, 0b0101)
    regs.write(0x20, 0b0110)
    assert regs.read(0x20) == 0b0111
    regs.set("CLEAR", 0b1111)
    regs.write(0x24, 0b0101)
    assert regs.read(0x24) == 0b1010
    regs.write(0x30, 3)
    assert (regs.read(0x30), regs.get("KICK")) == (0, 3)


def test_arrays_have_instances_apart(regs: RegisterFile) -> None:
    offsets = [regs.offset("RING", i) for i in range(3)]
    assert offsets == [0x100, 0x140, 0x180]
    for i, offset in enumerate(offsets):
        regs.write(offset, i + 1)
    assert [regs.get("RING", i) for i in range(3)] == [1, 2, 3]
    for bad in (-1, 3):
        with pytest.raises(IndexError, match="3 instances"):
            regs.offset("RING", bad)


@pytest.mark.parametrize("offset", [4, 0x101, 0x1C0, -4])
def test_where_there_is_no_register(regs: RegisterFile, offset: int) -> None:
    for access in (lambda: regs.read(offset), lambda: regs.write(offset, 1)):
        with pytest.raises(NetstackError, match="no register at offset") as caught:
            access()
        assert caught.value.errno == EINVAL


def test_hooks_see_instance_and_value_after_the_store(regs: RegisterFile) -> None:
    seen: list[tuple[int, int, int]] = []
    regs.on_write("RING", lambda i, value: seen.append((i, value, regs.get("RING", i))))
    regs.on_write("STATUS", lambda i, value: seen.append((i, value, -1)))
    regs.write(0x180, 1 << 32 | 6)
    regs.write(8, 1)
    assert seen == [(2, 6, 6)], "a read-only register has nothing to react to"
    regs.on_read("RING", lambda i: 1 << 33 | i)
    assert regs.read(0x140) == 1
    assert regs.get("RING", 2) == 6, "the model looks without side effects"
