"""The kernels' view of an interface as an object: flags, limits, stage table, TX queues, counters (paper §2.1, §5.4).

Context: control plane.  Counters are per CPU and summed on read; exact while no CPU runs.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from netstack._fast.atomics cimport (ns_store_ptr, ns_write_u8, ACQREL, ns_load_u32, ns_store_u32, ns_store_u64,
                                     ns_read_u64, RELAXED, ns_count_u64)
from netstack._fast.dispositions import NAMES as _NAMES
from netstack._fast.lines cimport own_lines
from netstack._fast.mactable cimport key_of, mac_of
from netstack._fast.queue cimport TxQueue

FLAG_UP = int(IFF_UP)
FLAG_RUNNING = int(IFF_RUNNING)
FLAG_PROMISC = int(IFF_PROMISC)
FLAG_LISTEN = int(IFF_LISTEN)
NO_PORT_INDEX = int(NO_PORT)
TABLES = {"ether": int(TABLE_ETHER), "bridge": int(TABLE_BRIDGE), "punt": int(TABLE_PUNT)}
_COUNTERS = ("ipackets", "ibytes", "imcasts", "opackets", "obytes", "omcasts", "delivered", "copies", "originated",
             "rx_vectors", "tx_bursts")


cdef class IfnetBlock:
    """Interface ``index`` (1..65535) with a 6-byte address; ``maxlen`` is MTU + 14 bytes."""

    def __cinit__(self, index: int, mac: bytes, maxlen: int = 1514):
        if not 1 <= index <= 65535:
            raise ValueError(f"interface index {index} is not in 1..65535")
        self.ifp = <ifnet_t *> calloc(1, sizeof(ifnet_t))
        if self.ifp == NULL:
            raise MemoryError()
        self.ifp.stat = <ifstat_t *> own_lines(STAT_SLOTS * sizeof(ifstat_t))
        self.ifp.index = index
        self.ifp.mac = key_of(mac)
        self.ifp.maxlen = maxlen
        self.ifp.port = NO_PORT
        self._queues = []

    def __dealloc__(self):
        if self.ifp != NULL:
            free(self.ifp.stat)
            free(self.ifp)

    @property
    def index(self) -> int:
        return self.ifp.index

    @property
    def flags(self) -> int:
        return ns_load_u32(&self.ifp.flags, RELAXED) & ~<uint32_t> IFF_TX_HOOK

    @flags.setter
    def flags(self, value: int):
        cdef uint32_t kept = ns_load_u32(&self.ifp.flags, RELAXED) & IFF_TX_HOOK
        ns_store_u32(&self.ifp.flags, kept | (<uint32_t> value & ~<uint32_t> IFF_TX_HOOK), RELAXED)

    @property
    def mac(self) -> bytes:
        return mac_of(self.ifp.mac)

    @mac.setter
    def mac(self, value: bytes):
        ns_store_u64(&self.ifp.mac, key_of(value), RELAXED)

    @property
    def maxlen(self) -> int:
        return self.ifp.maxlen

    @maxlen.setter
    def maxlen(self, value: int):
        ns_store_u32(&self.ifp.maxlen, value, RELAXED)

    @property
    def tx_hook(self) -> bool:
        """The if_transmit slot is a Python function: the compiled chain leaves this interface's output to it."""
        return self.ifp.flags & IFF_TX_HOOK != 0

    @tx_hook.setter
    def tx_hook(self, value: bool):
        cdef uint32_t kept = ns_load_u32(&self.ifp.flags, RELAXED) & ~<uint32_t> IFF_TX_HOOK
        ns_store_u32(&self.ifp.flags, kept | IFF_TX_HOOK if value else kept, RELAXED)

    @property
    def table(self) -> str:
        """Stage table of the compiled chain: "ether", "bridge" or "punt" (a Python if_input slot)."""
        return [name for name, value in TABLES.items() if value == self.ifp.table][0]

    @table.setter
    def table(self, value: str):
        if value not in TABLES:
            raise ValueError(f"no stage table {value!r}: one of {', '.join(TABLES)}")
        ns_store_u32(&self.ifp.table, TABLES[value], RELAXED)

    @property
    def port(self) -> int:
        """Port in its bridge's map, NO_PORT_INDEX when it is in none."""
        return self.ifp.port

    @property
    def ntxq(self) -> int:
        return self.ifp.ntxq

    def set_txqs(self, queues, select) -> None:
        """Give the interface its TX queues and the CPU-to-queue table (``txq_select``).

        The table may change while traffic flows, the queues may not.  Without queues there is no output.
        """
        cdef TxQueue q
        cdef uint32_t i
        if len(queues) > TXQ_MAX or len(select) > CPU_MAX + 1 or any(not 0 <= s < max(len(queues), 1) for s in select):
            raise ValueError("more TX queues than fit, or a selection beyond them")
        self._queues = list(queues)
        for i, q in enumerate(self._queues):
            ns_store_ptr(&self.ifp.txq[i], q.txq, RELAXED)
        for i in range(CPU_MAX + 1):
            ns_write_u8(&self.ifp.txq_of_cpu[i], select[i] if i < <uint32_t> len(select) else 0)
        ns_store_u32(&self.ifp.ntxq, len(self._queues), ACQREL)

    def counters(self, cpu=None) -> dict:
        """Frames and bytes: in, out, delivered up, copies made, originated here; of one CPU or of all."""
        cdef uint32_t i
        cdef uint64_t *words
        total = [0] * len(_COUNTERS)
        for i in (range(STAT_SLOTS) if cpu is None else (cpu,)):
            words = &self.ifp.stat[i].ipackets
            for k in range(len(_COUNTERS)):
                total[k] += ns_read_u64(&words[k])
        return dict(zip(_COUNTERS, total, strict=True))

    def drops(self, cpu=None) -> dict:
        """Frames lost, by reason name; reasons that never happened are left out."""
        cdef uint32_t i, k
        out = {}
        for k in range(len(_NAMES)):
            n = 0
            for i in (range(STAT_SLOTS) if cpu is None else (cpu,)):
                n += ns_read_u64(&self.ifp.stat[i].drops[k])
            if n:
                out[_NAMES[k]] = n
        return out

    def count_originated(self, cpu: int, frames: int) -> None:
        """The local stack is about to send ``frames`` frames."""
        if not 0 <= cpu < STAT_SLOTS:
            raise IndexError(f"no CPU {cpu}")
        ns_count_u64(&self.ifp.stat[cpu].originated, frames)

    def count_in(self, cpu: int, frames: int, nbytes: int) -> None:
        """Account for a vector that a driver in Python has received: frames and bytes in, one vector."""
        if not 0 <= cpu < STAT_SLOTS:
            raise IndexError(f"no CPU {cpu}")
        ns_count_u64(&self.ifp.stat[cpu].ipackets, frames)
        ns_count_u64(&self.ifp.stat[cpu].ibytes, nbytes)
        ns_count_u64(&self.ifp.stat[cpu].rx_vectors, 1)

    def count_out(self, cpu: int, frames: int, nbytes: int, mcasts: int) -> None:
        """Account for frames that a device of a driver in Python has sent, ``mcasts`` of them to groups."""
        if not 0 <= cpu < STAT_SLOTS:
            raise IndexError(f"no CPU {cpu}")
        ns_count_u64(&self.ifp.stat[cpu].opackets, frames)
        ns_count_u64(&self.ifp.stat[cpu].obytes, nbytes)
        ns_count_u64(&self.ifp.stat[cpu].omcasts, mcasts)

    def count_lost(self, cpu: int, reason: int, frames: int) -> None:
        """Account for frames that were received but never left their ring: in, and lost for a reason."""
        self.count_drop(cpu, reason, frames)
        ns_count_u64(&self.ifp.stat[cpu].ipackets, frames)

    def count_drop(self, cpu: int, reason: int, frames: int = 1) -> None:
        """Account for frames lost outside the kernels, by disposition."""
        if not 0 <= cpu < STAT_SLOTS or not 0 <= reason < len(_NAMES):
            raise IndexError("no such CPU or disposition")
        ns_count_u64(&self.ifp.stat[cpu].drops[reason], frames)
