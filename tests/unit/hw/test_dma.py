"""What a device sees of host memory: rings at bus addresses, and faults."""

from errno import EFAULT

import pytest

from netstack._fast.ifnet import IfnetBlock
from netstack._fast.mbuf import MbufPool
from netstack._fast.queue import RxQueue, TxQueue
from netstack.errors import NetstackError
from netstack.hw.dma import DmaMap


def test_a_mapped_ring_is_found_at_its_address() -> None:
    ifp, pool, dma = IfnetBlock(1, b"\x02\0\0\0\0\1"), MbufPool(64, 1), DmaMap()
    queues = [RxQueue(ifp, pool, 0, 8), TxQueue(ifp, pool, 0, 8), TxQueue(ifp, pool, 1, 8)]
    addresses = [dma.map(queue) for queue in queues]
    assert addresses == [queue.ring.address for queue in queues]
    assert [dma.ring(address) for address in addresses] == queues
    assert dma.map(queues[0]) == addresses[0]


def test_anything_else_is_a_fault() -> None:
    ifp, pool, dma = IfnetBlock(1, b"\x02\0\0\0\0\1"), MbufPool(64, 1), DmaMap()
    queue = RxQueue(ifp, pool, 0, 8)
    address = dma.map(queue)
    dma.unmap(queue)
    dma.unmap(queue)
    for where in (address, address + 16, 0):
        with pytest.raises(NetstackError, match="nothing is mapped") as caught:
            dma.ring(where)
        assert caught.value.errno == EFAULT
