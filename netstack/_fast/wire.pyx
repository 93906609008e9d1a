"""Cables and the two engines of a NIC (paper §6.1): the device's half of the data path.

A receive engine takes frames off the cable (or makes them, when the far end is a ``Generator``) and writes them to the
addresses it finds in descriptors; a transmit engine does the reverse.  Neither knows of mbufs, interfaces or drivers.

Flow: frames put on a cable wait there until the NIC has a descriptor, as on a link with flow control; a generator does
not wait: what meets no descriptor is lost and counted in ``missed``.

Context: ``Cable`` any thread.  ``run`` of an engine: whoever rings its doorbell or is the device's clock.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, calloc
from libc.string cimport memcpy, memset

from netstack._fast.atomics cimport (ns_read_u64, ns_read_u32, ns_count_u64, ns_load_u32, ns_store_u32, ACQREL)
from netstack._fast.cable cimport HEADER_BYTES, fifo_take, fifo_put, cframe_new, hwrx_step, tx_to_cable
from netstack._fast.dring cimport DESC_DD
from netstack._fast.intr cimport intr_raise
from netstack._fast.lines cimport own_lines
from netstack._fast.lock cimport spin_enter, spin_exit
from netstack._fast.queue cimport RxQueue, TxQueue

cdef enum:
    MIN_FRAME_BYTES = 60         # what a sender's NIC pads to (without FCS)
    ETHER_OVERHEAD_BYTES = 24    # FCS 4, preamble 8, inter-frame gap 12


cdef uint32_t hwrx_run(hwrx_t *hw, uint64_t now_ns) noexcept nogil:
    """Receive engine: fill descriptors with what is there now, raise the interrupt; how many frames."""
    return hwrx_step(hw, now_ns)


cdef uint32_t hwtx_run(hwtx_t *hw, uint64_t now_ns) noexcept nogil:
    """Transmit engine: send what the doorbell gave, in order, as far as the wire's rate allows; how many frames."""
    cdef uint32_t tail, head, mask, n = 0
    cdef uint64_t nbytes = 0, counted
    cdef bint is_timed, is_counting
    cdef desc_t *d
    cdef txport_t *port = hw.port
    cdef double start
    spin_enter(&hw.lock)
    if hw.enabled == 0:
        spin_exit(&hw.lock)
        return 0
    tail = ns_load_u32(hw.tail, ACQREL)
    if port.ns_per_byte > 0:
        spin_enter(&port.lock)
        while hw.timed != tail:
            d = &hw.desc[hw.timed & hw.mask]
            start = port.busy_until_ns if port.busy_until_ns > <double> now_ns else <double> now_ns
            port.busy_until_ns = start + port.ns_per_byte * (d.nbytes + ETHER_OVERHEAD_BYTES)
            hw.finish_ns[hw.timed & hw.mask] = port.busy_until_ns
            hw.timed += 1
        spin_exit(&port.lock)
    is_timed = port.ns_per_byte > 0
    is_counting = port.counting != 0
    head = hw.head
    mask = hw.mask
    while head + n != tail:
        d = &hw.desc[(head + n) & mask]
        if is_timed and hw.finish_ns[(head + n) & mask] > <double> now_ns:
            break
        if not is_counting:
            tx_to_cable(port, d)
        nbytes += d.nbytes
        ns_store_u32(&d.status, DESC_DD, ACQREL)
        n += 1
    counted = n if is_counting else 0
    hw.head += n
    ns_count_u64(&hw.frames, n)
    ns_count_u64(&hw.nbytes, nbytes)
    ns_count_u64(&hw.counted, counted)
    spin_exit(&hw.lock)
    if n and hw.intr != NULL and port.ns_per_byte > 0:
        intr_raise(hw.intr)
    return n


cdef class Cable:
    """One direction of a cable: a bounded FIFO of frames.  Frames of 14..59 bytes are padded to 60 as a NIC does."""

    def __cinit__(self, limit: int = 262144):
        if limit < 1:
            raise ValueError("a cable holds at least one frame")
        self.fifo.limit = limit

    def __dealloc__(self):
        cdef cframe_t *f
        while self.fifo.first != NULL:
            f = self.fifo.first
            self.fifo.first = f.next
            free(f)

    def put(self, frame, hash: int = 0) -> bool:
        """Copy one frame (any C-contiguous buffer) on; False when the cable is full."""
        cdef const uint8_t[::1] view = memoryview(frame).cast("B")
        cdef uint32_t nbytes = <uint32_t> view.shape[0]
        cdef uint32_t padded = MIN_FRAME_BYTES if 14 <= nbytes < MIN_FRAME_BYTES else nbytes
        cdef cframe_t *f = cframe_new(padded)
        cdef bint done
        if f == NULL:
            raise MemoryError()
        if nbytes:
            memcpy(f.data, &view[0], nbytes)
        if padded > nbytes:
            memset(&f.data[0] + nbytes, 0, padded - nbytes)
        f.hash = hash & 0xFFFF
        spin_enter(&self.fifo.lock)
        done = fifo_put(&self.fifo, f)
        spin_exit(&self.fifo.lock)
        if not done:
            free(f)
        return done

    def take(self, n: int = -1) -> list:
        """Up to ``n`` frames (all for -1) as bytes, oldest first."""
        cdef cframe_t *f
        out = []
        while n != len(out):
            spin_enter(&self.fifo.lock)
            f = fifo_take(&self.fifo)
            spin_exit(&self.fifo.lock)
            if f == NULL:
                break
            out.append((<char *> f.data)[:f.nbytes])
            free(f)
        return out

    def __len__(self):
        return ns_read_u32(&self.fifo.n)

    @property
    def passed(self) -> int:
        """Frames ever put on."""
        return ns_read_u64(&self.fifo.passed)

    @property
    def refused(self) -> int:
        """Frames that found it full."""
        return ns_read_u64(&self.fifo.refused)


cdef class Generator:
    """The far end as a paced source: frames of ``nbytes`` (without FCS) with the given headers in turn.

    ``headers`` is a multiple of 16 bytes: per frame the Ethernet header and two bytes more.  The rest of a frame is
    whatever its buffer held: nothing on a bridge's way reads it.
    """

    def __cinit__(self, headers: bytes, nbytes: int):
        cdef const uint8_t[::1] view = headers
        if len(headers) == 0 or len(headers) % HEADER_BYTES:
            raise ValueError("headers are blocks of 16 bytes, at least one")
        if not HEADER_BYTES <= nbytes <= 2048:
            raise ValueError(f"frames are 16..2048 bytes, not {nbytes}")
        self.gen = <gen_t *> own_lines(sizeof(gen_t))
        self.gen.header = <uint8_t *> malloc(len(headers))
        if self.gen.header == NULL:
            raise MemoryError()
        memcpy(self.gen.header, &view[0], len(headers))
        self.gen.nheaders = len(headers) // HEADER_BYTES
        self.gen.nbytes = nbytes
        self.gen.stop_ns = 0

    def __dealloc__(self):
        if self.gen != NULL:
            free(self.gen.header)
        free(self.gen)

    def start(self, now_ns: int, stop_ns: int, rate_fps: float, burst_max: int = 512) -> None:
        """Send from ``now_ns`` until before ``stop_ns`` at ``rate_fps`` frames a second (0: whenever there is room).

        Frames more than ``burst_max`` behind their time are not sent but counted: in ``paused`` when it was
        not run at all for 100 us (a loop over full rings takes a tenth of that), else in ``late``.
        """
        if rate_fps < 0 or stop_ns < now_ns or burst_max < 1:
            raise ValueError("a rate is not negative, the end not before the start, a burst not empty")
        self.gen.interval_ns = 1e9 / rate_fps if rate_fps else 0.0
        self.gen.next_ns = now_ns
        self.gen.stop_ns = stop_ns
        self.gen.burst_max = burst_max
        self.gen.sent = 0
        self.gen.late = 0
        self.gen.looked_ns = now_ns
        self.gen.paused = 0

    @property
    def sent(self) -> int:
        """Frames offered to the NIC since ``start``."""
        return ns_read_u64(&self.gen.sent)

    @property
    def late(self) -> int:
        """Frames the generator itself did not offer in time."""
        return ns_read_u64(&self.gen.late)

    @property
    def paused(self) -> int:
        """Frames not offered because nobody ran the generator for 100 us or more: the host ran other work."""
        return ns_read_u64(&self.gen.paused)

    @property
    def nbytes(self) -> int:
        return self.gen.nbytes

    @property
    def stop_ns(self) -> int:
        """No frame is due at or after this."""
        return self.gen.stop_ns

    def next_due_ns(self) -> int:
        """When the next frame is due; at or past the end of the trial when none is."""
        return <uint64_t> self.gen.next_ns + 1


cdef class HwRxQueue:
    """Receive engine of one queue: ``queue`` is the driver's ring, ``cable`` what comes in."""

    def __cinit__(self, RxQueue queue not None, Cable cable not None):
        self.queue = queue
        self._cable = cable
        self.hw = <hwrx_t *> own_lines(sizeof(hwrx_t))
        self.hw.desc = queue.ring.ring.desc
        self.hw.mask = queue.ring.ring.mask
        self.hw.tail = &queue.rxq.ring.tail
        self.hw.buffer_bytes = 2048
        self.hw.cable = &cable.fifo
        queue.rxq.hw = self.hw
        queue.engine = self

    def __dealloc__(self):
        free(self.hw)

    @property
    def received(self) -> int:
        return ns_read_u64(&self.hw.received)

    @property
    def missed(self) -> int:
        """Frames lost for want of a descriptor."""
        return ns_read_u64(&self.hw.missed)

    @property
    def generated(self) -> int:
        """Frames received that a generator made; the others came over the cable."""
        return ns_read_u64(&self.hw.generated)

    @property
    def oversize(self) -> int:
        """Frames longer than a buffer."""
        return ns_read_u64(&self.hw.oversize)

    @property
    def resting(self) -> int:
        """Frames that wait on the cable."""
        return ns_read_u32(&self.hw.cable.n)

    @property
    def enabled(self) -> bool:
        return self.hw.enabled != 0

    @enabled.setter
    def enabled(self, value: bool):
        # once it is off no descriptor is touched any more: a run under way is waited for
        spin_enter(&self.hw.lock)
        self.hw.enabled = value
        spin_exit(&self.hw.lock)

    @property
    def cable(self) -> Cable:
        return self._cable

    @property
    def generator(self):
        return self._gen

    @generator.setter
    def generator(self, Generator value):
        spin_enter(&self.hw.lock)
        self._gen = value
        self.hw.gen = value.gen if value is not None else NULL
        spin_exit(&self.hw.lock)

    def set_intr(self, IntrSource source not None) -> None:
        """Vector that reports received frames (IVAR)."""
        self._intr = source
        self.hw.intr = source.src

    def run(self, now_ns: int) -> int:
        """Do now what there is to do; how many frames."""
        return hwrx_run(self.hw, now_ns)


cdef class TxPort:
    """What the transmit queues of a NIC share: the outgoing cable, and its rate."""

    def __cinit__(self, Cable cable not None):
        self.cable = cable
        self.port = <txport_t *> own_lines(sizeof(txport_t))
        self.port.fifo = &cable.fifo

    def __dealloc__(self):
        free(self.port)

    @property
    def counting(self) -> bool:
        """True: the far end counts frames and forgets them (a traffic sink)."""
        return self.port.counting != 0

    @counting.setter
    def counting(self, value: bool):
        self.port.counting = value

    @property
    def lost(self) -> int:
        """Frames the far end had no room for."""
        return ns_read_u64(&self.port.lost)

    @property
    def busy_until_ns(self) -> float:
        return self.port.busy_until_ns

    @property
    def has_rate(self) -> bool:
        return self.port.ns_per_byte > 0

    def set_rate(self, bits_per_s: float) -> None:
        """Bits a second on the wire; 0 takes no time.  Each frame costs 24 bytes more (FCS, preamble, gap)."""
        if bits_per_s < 0:
            raise ValueError("a rate is not negative")
        self.port.ns_per_byte = 8e9 / bits_per_s if bits_per_s else 0.0


cdef class HwTxQueue:
    """Transmit engine of one queue."""

    def __cinit__(self, TxQueue queue not None, TxPort port not None):
        self.queue = queue
        self.port = port
        self.hw = <hwtx_t *> own_lines(sizeof(hwtx_t))
        self.hw.desc = queue.ring.ring.desc
        self.hw.mask = queue.ring.ring.mask
        self.hw.tail = &queue.txq.ring.tail
        self.hw.finish_ns = <double *> calloc(queue.ring.ring.mask + 1, sizeof(double))
        if self.hw.finish_ns == NULL:
            raise MemoryError()
        self.hw.port = port.port
        queue.txq.hw = self.hw
        queue.engine = self

    def __dealloc__(self):
        if self.hw != NULL:
            free(self.hw.finish_ns)
        free(self.hw)

    @property
    def enabled(self) -> bool:
        return self.hw.enabled != 0

    @enabled.setter
    def enabled(self, value: bool):
        # once it is off no descriptor is touched any more: a run under way is waited for
        spin_enter(&self.hw.lock)
        self.hw.enabled = value
        spin_exit(&self.hw.lock)

    @property
    def frames(self) -> int:
        return ns_read_u64(&self.hw.frames)

    @property
    def nbytes(self) -> int:
        return ns_read_u64(&self.hw.nbytes)

    @property
    def counted(self) -> int:
        """Frames that a counting far end took and forgot."""
        return ns_read_u64(&self.hw.counted)

    @property
    def pending(self) -> int:
        """Descriptors given to the device and not sent yet."""
        return <uint32_t> (ns_load_u32(self.hw.tail, ACQREL) - self.hw.head)

    def set_intr(self, IntrSource source not None) -> None:
        """Vector that reports sent frames (only on a wire with a rate: otherwise sending takes no time)."""
        self._intr = source
        self.hw.intr = source.src

    def run(self, now_ns: int) -> int:
        """Do now what there is to do; how many frames left."""
        return hwtx_run(self.hw, now_ns)

    def next_finish_ns(self) -> float:
        """When the oldest frame under way will have left; 0 when none is."""
        if self.hw.head == self.hw.timed:
            return 0.0
        return self.hw.finish_ns[self.hw.head & self.hw.mask]
