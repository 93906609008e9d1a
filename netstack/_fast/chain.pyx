"""The compiled chain: a frame's way without Python, and the run loop of a wall-clock CPU (paper §2.3.2, §3.3, §5.4).

``softint_run`` and ``hardint_run`` serve one handler; ``run`` is the loop of a CPU thread: device engines driven
by this
CPU, hard interrupts, softints by level, sleep.  It makes no decision of its own: it walks a table of stages per
interface
made of the same inlines as ``kernels.pyx``.

The loop never takes the GIL.  Handlers that are Python are noted and the CPU's Python thread is told; it pauses
the loop
(``pause``, ``resume``) while they run, so that a CPU never runs two handlers at once.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack._fast.atomics cimport (ns_count_u64, ns_load_ptr, ns_load_u32, ns_store_u32, ns_load_u64, ns_xchg_u64,
                                     ns_xchg_u32, ns_pause, RELAXED, ACQREL, NS_IS_EXPLORE, ns_explore_set)
from netstack._fast.bridge cimport brmap_t, bridge_t
from netstack._fast.bridge_stages cimport bridge_decide, bridge_split
from netstack._fast.cpu cimport (CpuBlock, cpu_t, rxq_t, softq_t, softent_t, vecent_t, outlist_t, softint_schedule,
                                 softint_next, remote_take, rx_is_ready, ctz64, VEC_PYTHON, VEC_SOFTDRV, SOFT_PYTHON,
                                 SOFT_RX, SOFT_BRIDGE, SOFT_TX, PUNT_INPUT, PUNT_TRANSMIT, FDS_MAX)
from netstack._fast.defs cimport SOFTINT_MAX, SOFTINT_LEVELS, VECTOR_WORDS, VEC_MAX
from netstack._fast.idle cimport (wall_ns, look_at_fds, sleep_idle, stay_paused, pause_ask, pause_is_granted,
                                  pause_end)
from netstack._fast.ifnet cimport ifnet_t, IFF_TX_HOOK, TABLE_ETHER, TABLE_BRIDGE, TABLE_PUNT
from netstack._fast.intr cimport IntrSource, intr_enable
from netstack._fast.kassert cimport NS_CHECKED, ns_unlikely
from netstack._fast.lock cimport spin_enter, spin_exit, sched_yield
from netstack._fast.mactable cimport mactable_t
from netstack._fast.mbuf cimport pktvec_t
from netstack._fast.pserialize cimport psz_read_enter, psz_read_exit, psz_switchpoint, psz_idle
from netstack._fast.stages cimport rx_receive, ether_parse, ether_local, punt, punt_vec, fwdq_put, fwdq_get
from netstack._fast.transmit cimport if_transmit, tx_complete
from netstack._fast.wire cimport hwrx_run, HwRxQueue

cdef extern from "unistd.h" nogil:
    long write(int fd, const void *buf, size_t n) noexcept

cdef extern from *:
    """
    #if defined(NETSTACK_EXPLORE)
    #define NS_LEVEL "explore"
    #elif defined(__AVX2__)
    #define NS_LEVEL "v3"
    #else
    #define NS_LEVEL "v2"
    #endif
    """
    const char *NS_LEVEL

LEVEL = NS_LEVEL.decode()
IS_EXPLORE = bool(NS_IS_EXPLORE)
CHECKED = bool(NS_CHECKED)

cdef enum:
    POLL_EVERY = 8               # rounds between looks at host descriptors while there is other work

# A stage consumes frames; false ends the walk.
ctypedef bint (*stage_fn)(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec) noexcept nogil


cdef bint stage_parse(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec) noexcept nogil:
    return ether_parse(cpu, ifp, vec) != 0


cdef bint stage_local(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec) noexcept nogil:
    ether_local(cpu, ifp, vec)
    return False


cdef bint stage_punt(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec) noexcept nogil:
    punt_vec(cpu, ifp, vec, PUNT_INPUT)
    return False


cdef bint stage_bridge(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec) noexcept nogil:
    """bridge_forward: one read section, decide, split, one transmit per output port."""
    cdef bridge_t *br
    cdef brmap_t *map
    cdef outlist_t *out
    cdef uint32_t i, k, port
    cdef ifnet_t *egress
    psz_read_enter(cpu.psz, cpu.index)
    br = <bridge_t *> ns_load_ptr(&ifp.bridge, ACQREL)
    map = <brmap_t *> ns_load_ptr(&br.map, ACQREL) if br != NULL else NULL
    port = ns_load_u32(&ifp.port, RELAXED)
    if map == NULL or map.running == 0 or port >= map.nports or map.port[port].ifp != ifp:
        psz_read_exit(cpu.psz, cpu.index)
        return True                          # the next stage is local input
    bridge_decide(cpu, map, <mactable_t *> ns_load_ptr(&br.table, ACQREL), &br.stat[cpu.index], port, vec)
    bridge_split(cpu, ifp, &br.stat[cpu.index], vec)
    for i in range(vec.out_ports):
        out = &cpu.out[cpu.port_order[i]]
        egress = map.port[cpu.port_order[i]].ifp
        if ns_unlikely(ns_load_u32(&egress.flags, RELAXED) & IFF_TX_HOOK):
            for k in range(out.n):
                punt(cpu, egress, out.m[k], PUNT_TRANSMIT, egress.index)
        else:
            if_transmit(cpu, egress, out.m, out.n)
        out.n = 0
    vec.out_ports = 0
    psz_read_exit(cpu.psz, cpu.index)
    return False

cdef stage_fn[3][4] TABLES
TABLES[TABLE_ETHER][0] = stage_parse
TABLES[TABLE_ETHER][1] = stage_local
TABLES[TABLE_ETHER][2] = NULL
TABLES[TABLE_BRIDGE][0] = stage_parse
TABLES[TABLE_BRIDGE][1] = stage_bridge
TABLES[TABLE_BRIDGE][2] = stage_local
TABLES[TABLE_BRIDGE][3] = NULL
TABLES[TABLE_PUNT][0] = stage_punt
TABLES[TABLE_PUNT][1] = NULL


cdef inline void walk(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec, uint32_t first) noexcept nogil:
    """Walk the interface's stage table from a stage on."""
    cdef stage_fn *stage = &TABLES[ns_load_u32(&ifp.table, RELAXED)][first]
    while stage[0] != NULL and stage[0](cpu, ifp, vec):
        stage += 1


cdef inline void rx_softint(cpu_t *cpu, rxq_t *rxq) noexcept nogil:
    """Receive softint of a queue: up to its limit; then again, or enable the interrupt (paper §3.3)."""
    cdef uint32_t limit = ns_load_u32(&rxq.limit, RELAXED), done = 0, n, want
    while done < limit:
        want = limit - done
        if want > VEC_MAX:
            want = VEC_MAX
        n = rx_receive(cpu, rxq, cpu.vec, want)
        if n:
            walk(cpu, rxq.ifp, cpu.vec, 0)
            done += n
        if n < want:
            if ns_load_u32(&rxq.stopping, RELAXED) == 0 and rxq.intr != NULL:
                intr_enable(rxq.intr)
            return
    if rx_is_ready(rxq):
        softint_schedule(cpu, rxq.softint)
    elif ns_load_u32(&rxq.stopping, RELAXED) == 0 and rxq.intr != NULL:
        intr_enable(rxq.intr)


cdef inline void bridge_softint(cpu_t *cpu) noexcept nogil:
    """bridge_forward softint of the classic frame: everything that is queued now."""
    cdef uint32_t rounds = 8
    while rounds and fwdq_get(cpu, cpu.vec):
        walk(cpu, cpu.ifnets[cpu.vec.rcvif], cpu.vec, 1)
        rounds -= 1
    if cpu.fwdq_head != cpu.fwdq_tail:
        softint_schedule(cpu, cpu.fwdq_softint)


cdef inline void classic_hardint(cpu_t *cpu, rxq_t *rxq) noexcept nogil:
    """Hard handler of the classic frame: drain up to the limit, parse, leave the rest to the bridge softint."""
    cdef uint32_t limit = ns_load_u32(&rxq.limit, RELAXED), done = 0, n, want
    while done < limit:
        want = limit - done
        if want > VEC_MAX:
            want = VEC_MAX
        n = rx_receive(cpu, rxq, cpu.hardvec, want)
        done += n
        if n:
            if ns_load_u32(&rxq.ifp.table, RELAXED) == TABLE_BRIDGE:
                if ether_parse(cpu, rxq.ifp, cpu.hardvec):
                    fwdq_put(cpu, rxq.ifp, cpu.hardvec)
            else:
                walk(cpu, rxq.ifp, cpu.hardvec, 0)
        if n < want:
            break
    if ns_load_u32(&rxq.stopping, RELAXED) == 0 and rxq.intr != NULL:
        if done == limit and rx_is_ready(rxq):
            # more may be there: the device raises again when it is enabled
            ns_xchg_u32(&rxq.intr.cause, 1)
        intr_enable(rxq.intr)


cdef inline void serve_soft(cpu_t *cpu, uint32_t handle) noexcept nogil:
    """Run one compiled softint handler, under KERNEL_LOCK where there is one."""
    cdef softent_t *e = &cpu.soft[handle]
    if cpu.giant != NULL:
        spin_enter(cpu.giant)
    if e.kind == SOFT_RX:
        rx_softint(cpu, e.rxq)
    elif e.kind == SOFT_BRIDGE:
        bridge_softint(cpu)
    elif e.kind == SOFT_TX:
        tx_complete(cpu, e.txq)
        if e.txq.intr != NULL:
            intr_enable(e.txq.intr)
    if cpu.giant != NULL:
        spin_exit(cpu.giant)
    ns_count_u64(&cpu.softints, 1)
    psz_switchpoint(cpu.psz, cpu.index)


cdef inline bint serve_hard(cpu_t *cpu, uint32_t slot) noexcept nogil:
    """Run one compiled hard handler; false when the slot's handler is Python."""
    cdef vecent_t *v = &cpu.vector[slot]
    if v.kind == VEC_PYTHON:
        return False
    ns_count_u64(&v.count, 1)
    ns_count_u64(&cpu.hardints, 1)
    if v.kind == VEC_SOFTDRV:
        softint_schedule(cpu, v.softint)
    elif v.rxq != NULL:
        if cpu.giant != NULL:
            spin_enter(cpu.giant)
        classic_hardint(cpu, v.rxq)
        if cpu.giant != NULL:
            spin_exit(cpu.giant)
    return True


cdef void tell_python(cpu_t *cpu) noexcept nogil:
    """Work for a Python handler has been noted: wake the Python thread, once."""
    cdef uint64_t one = 1
    if ns_load_u32(&cpu.python_posted, RELAXED) == 0:
        ns_store_u32(&cpu.python_posted, 1, ACQREL)
        ns_count_u64(&cpu.gil_returns, 1)
        if cpu.python_eventfd >= 0:
            write(cpu.python_eventfd, &one, 8)


cdef uint32_t hard_round(cpu_t *cpu) noexcept nogil:
    """Take every hard interrupt that is pending now."""
    cdef uint32_t w, slot, n = 0
    cdef uint64_t bits
    for w in range(VECTOR_WORDS):
        if ns_load_u64(&cpu.lapic.pending[w], RELAXED) == 0:
            continue
        bits = ns_xchg_u64(&cpu.lapic.pending[w], 0)
        while bits:
            slot = 64 * w + <uint32_t> ctz64(bits)
            bits &= bits - 1
            n += 1
            if not serve_hard(cpu, slot):
                cpu.pyvec[slot >> 6] |= <uint64_t> 1 << (slot & 63)
                tell_python(cpu)
    return n


cdef uint32_t soft_round(cpu_t *cpu) noexcept nogil:
    """Run the softints that are pending now, highest level first, each level FIFO."""
    cdef int level, handle
    cdef uint32_t n = 0, left
    cdef softq_t *q
    for level in range(SOFTINT_LEVELS - 1, -1, -1):
        if ns_unlikely(cpu.soft_blocked >> level & 1):
            continue
        left = cpu.softq[level].tail - cpu.softq[level].head
        while left:
            left -= 1
            handle = softint_next(cpu, level)
            n += 1
            if cpu.soft[handle].kind == SOFT_PYTHON:
                q = &cpu.pyq[level]
                q.handle[q.tail & (SOFTINT_MAX - 1)] = <unsigned char> handle
                q.tail += 1
                cpu.soft_pending[handle] = 1     # stays pending until Python takes it
                tell_python(cpu)
            else:
                serve_soft(cpu, handle)
    return n


cdef uint32_t run_round(cpu_t *cpu, uint64_t now) noexcept nogil:
    """One round of a CPU: engines driven here, hard interrupts, softints; how much there was to do."""
    cdef uint32_t i, work = 0
    cpu.now_ns = now
    cpu.second = <uint32_t> (now // 1000000000)
    ns_count_u64(&cpu.loops, 1)
    for i in range(cpu.ngens):
        work += hwrx_run(cpu.gens[i], now)
    if cpu.nfds and cpu.loops % POLL_EVERY == 0:
        work += look_at_fds(cpu, 0)
    work += hard_round(cpu)
    remote_take(cpu)
    work += soft_round(cpu)
    psz_switchpoint(cpu.psz, cpu.index)
    return work


cdef void run_loop(cpu_t *cpu, int64_t offset_ns) noexcept nogil:
    cdef uint32_t work
    cdef uint64_t now, idle_since = 0
    while ns_load_u32(&cpu.stop, ACQREL) == 0:
        if ns_load_u32(&cpu.pause_wanted, ACQREL):
            stay_paused(cpu)
            continue
        now = wall_ns() + offset_ns
        work = run_round(cpu, now)
        if work:
            idle_since = 0
        elif cpu.busy_poll_ns == 0:
            sleep_idle(cpu, now)
        elif idle_since == 0:
            idle_since = now
        elif now - idle_since > cpu.busy_poll_ns:
            sleep_idle(cpu, now)
    psz_idle(cpu.psz, cpu.index, True)
    ns_store_u32(&cpu.is_idle, 1, ACQREL)


def run(CpuBlock cpu not None, offset_ns: int) -> None:
    """Be this CPU until ``stop``: called by its thread, once; the GIL is released all the time.

    Machine time is CLOCK_MONOTONIC + ``offset_ns``.
    """
    cdef int64_t offset = offset_ns
    psz_idle(cpu.cpu.psz, cpu.cpu.index, False)
    ns_store_u32(&cpu.cpu.is_idle, 0, ACQREL)
    with nogil:
        run_loop(cpu.cpu, offset)


def explore_hooks(hook: int, store: int = 0, load: int = 0) -> None:
    """Install function addresses that see every atomic access of this module (explore level only)."""
    ns_explore_set(<void *> <size_t> hook, <void *> <size_t> store, <void *> <size_t> load)


def step(CpuBlock cpu not None, now_ns: int) -> int:
    """One round in the caller's thread; how much there was to do.

    The CPU must be paused: its Python thread goes on as the CPU while there is work for Python.  The GIL is kept,
    except on a GENERIC kernel: a thread that has just got KERNEL_LOCK may need the GIL to go on, and must not wait
    for one that spins for KERNEL_LOCK with the GIL in its hands.
    """
    cdef uint32_t work
    cdef uint64_t now = now_ns
    if cpu.cpu.giant == NULL:
        work = run_round(cpu.cpu, now)
    else:
        with nogil:
            work = run_round(cpu.cpu, now)
    ns_store_u32(&cpu.cpu.python_posted, 0, ACQREL)  # the caller looks for itself
    return work


def stop(CpuBlock cpu not None, flag: bool) -> None:
    """Make ``run`` return soon (True), or allow it again (False)."""
    if not flag:
        ns_store_u32(&cpu.cpu.is_idle, 0, ACQREL)    # until the loop itself finds nothing to do
    ns_store_u32(&cpu.cpu.stop, flag, ACQREL)
    cpu.controller.wake(cpu.index)


def pause(CpuBlock cpu not None) -> None:
    """Python thread: take the CPU over from its loop, which must not end meanwhile.

    Waits with the GIL held: the loop never needs it and lets go within one vector.
    """
    cdef uint32_t spins = 0
    cdef cpu_t *c = cpu.cpu
    pause_ask(c)
    cpu.controller.wake(cpu.index)
    while not pause_is_granted(c):
        ns_pause()
        spins += 1
        if spins & 255 == 0:
            with nogil:
                sched_yield()
    ns_store_u32(&c.python_posted, 0, ACQREL)


def resume(CpuBlock cpu not None) -> None:
    """Python thread: give the CPU back to its loop; what it left undone will wake it again."""
    cdef uint32_t spins = 0, i
    for i in range(SOFTINT_LEVELS):
        if cpu.cpu.pyq[i].head != cpu.cpu.pyq[i].tail and not cpu.cpu.soft_blocked >> i & 1:
            tell_python(cpu.cpu)
    for i in range(VECTOR_WORDS):
        if cpu.cpu.pyvec[i]:
            tell_python(cpu.cpu)
    pause_end(cpu.cpu)
    while pause_is_granted(cpu.cpu):
        ns_pause()
        spins += 1
        if spins & 255 == 0:
            with nogil:
                sched_yield()


def set_eventfds(CpuBlock cpu not None, wake_fd: int, python_fd: int) -> None:
    """Descriptors that wake the loop and the Python thread; -1 for none."""
    cpu.controller.set_eventfd(cpu.index, wake_fd)
    cpu.cpu.python_eventfd = python_fd


def softint_run(CpuBlock cpu not None, handle: int) -> bool:
    """Serve one compiled softint on this CPU now; False when its handler is Python."""
    if cpu.cpu.soft[cpu.softints.checked(handle)].kind == SOFT_PYTHON:
        return False
    serve_soft(cpu.cpu, handle)
    return True


def hardint_run(CpuBlock cpu not None, slot: int) -> bool:
    """Serve one compiled hard interrupt on this CPU now; False when its handler is Python."""
    return serve_hard(cpu.cpu, cpu._slot(slot))


def watch(CpuBlock cpu not None, fd: int, IntrSource source not None, events: int = 1) -> None:
    """Make readiness of a host descriptor (poll events) an interrupt; OverflowError beyond 64 per CPU."""
    cdef uint32_t i
    if cpu.cpu.nfds == FDS_MAX:
        raise OverflowError(f"CPU {cpu.index} watches {FDS_MAX} descriptors already")
    i = cpu.cpu.nfds
    cpu.cpu.fds[i].fd = fd
    cpu.cpu.fds[i].events = events
    cpu.cpu.fds[i].intr = source.src
    cpu.keep(source)
    ns_store_u32(&cpu.cpu.nfds, i + 1, ACQREL)


def unwatch(CpuBlock cpu not None, fd: int) -> None:
    """Watch a descriptor no longer; while the CPU is paused or stopped."""
    cdef uint32_t i
    for i in range(cpu.cpu.nfds):
        if cpu.cpu.fds[i].fd == fd:
            cpu.cpu.fds[i] = cpu.cpu.fds[cpu.cpu.nfds - 1]
            ns_store_u32(&cpu.cpu.nfds, cpu.cpu.nfds - 1, ACQREL)
            return


def drive(CpuBlock cpu not None, engines) -> None:
    """Receive engines whose generators this CPU's loop drives (at most 64); while it is paused or stopped."""
    cdef HwRxQueue hw
    cdef uint32_t n = 0
    if len(engines) > 64:
        raise OverflowError("a CPU drives at most 64 receive engines")
    ns_store_u32(&cpu.cpu.ngens, 0, ACQREL)
    for hw in engines:
        cpu.cpu.gens[n] = hw.hw
        cpu.keep(hw)
        n += 1
    ns_store_u32(&cpu.cpu.ngens, n, ACQREL)
