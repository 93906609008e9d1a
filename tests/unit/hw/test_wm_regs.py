"""The registers of the I354 by number, and the values of the paper's Figure 2 (paper §5)."""

import pytest

from netstack.hw.regs import RegisterFile
from netstack.hw.wm_regs import IVAR_VALID, QUEUES_MAX, TABLE, VECTORS_MAX, ivar_field

# Intel I350 and 82576 datasheets.
OFFSETS = {
    ("CTRL", 0): 0x0000,
    ("STATUS", 0): 0x0008,
    ("RCTL", 0): 0x0100,
    ("TCTL", 0): 0x0400,
    ("GPIE", 0): 0x1514,
    ("EICS", 0): 0x1520,
    ("EIMS", 0): 0x1524,
    ("EIMC", 0): 0x1528,
    ("EIAC", 0): 0x152C,
    ("EIAM", 0): 0x1530,
    ("EICR", 0): 0x1580,
    ("IVAR", 0): 0x1700,
    ("IVAR", 3): 0x170C,
    ("IVAR_MISC", 0): 0x1740,
    ("MRQC", 0): 0x5818,
    ("RETA", 0): 0x5C00,
    ("RETA", 31): 0x5C7C,
    ("RSSRK", 0): 0x5C80,
    ("RSSRK", 9): 0x5CA4,
    ("RDBAL", 1): 0xC040,
    ("TDBAL", 7): 0xE1C0,
    ("RXDCTL", 0): 0xC028,
    ("TXDCTL", 7): 0xE1E8,
}


@pytest.mark.parametrize(("register", "offset"), OFFSETS.items())
def test_offsets_are_the_datasheets(register: tuple[str, int], offset: int) -> None:
    assert RegisterFile(TABLE).offset(*register) == offset


def test_no_two_registers_share_an_address() -> None:
    offsets = [r.offset + i * r.stride for r in TABLE.values() for i in range(r.instances)]
    assert len(offsets) == len(set(offsets))
    assert all(offset % 4 == 0 for offset in offsets)


def test_figure_2_of_the_paper() -> None:
    """Vectors 0, 1 for TX queues 0, 1; vectors 2, 3 for RX queues 0, 1; vector 4 for the link."""
    ivar = [0] * 4
    for queue, is_tx, vector in ((0, True, 0), (1, True, 1), (0, False, 2), (1, False, 3)):
        index, shift = ivar_field(queue, is_tx)
        ivar[index] |= (vector | IVAR_VALID) << shift
    assert ivar == [0x81838082, 0, 0, 0]
    assert (4 | IVAR_VALID) << 8 == 0x00008400


def test_every_queue_has_a_field_of_its_own() -> None:
    fields = {ivar_field(queue, is_tx) for queue in range(QUEUES_MAX) for is_tx in (False, True)}
    assert len(fields) == 2 * QUEUES_MAX
    assert {index for index, _ in fields} == {0, 1, 2, 3}
    assert {shift for _, shift in fields} == {0, 8, 16, 24}


def test_there_are_vectors_enough_for_all_queues_and_the_link() -> None:
    assert 2 * QUEUES_MAX + 1 <= VECTORS_MAX <= IVAR_VALID
