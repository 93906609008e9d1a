"""Thin wrappers of the kernels: what the Python layers are composed of (paper §2.3.2, Fig. 1).

The same inlines make up the compiled chain (``chain.pyx``); neither has a decision of its own.  Built once per CPU
level;
``netstack._fast`` picks one at import.

Context: the CPU the ``CpuBlock`` stands for, any handler.  The GIL is kept: a vector takes microseconds, and
giving the GIL
away for less than tens of microseconds costs more than it brings.
"""
from netstack._fast.dispositions import HELP as _HELP

from libc.stdint cimport uint32_t

from netstack._fast.atomics cimport (ns_load_u32, RELAXED, ns_count_u64, ns_load_ptr, ACQREL, NS_IS_EXPLORE,
                                     ns_explore_set)
from netstack._fast.bridge cimport BridgeBlock, brmap_t
from netstack._fast.bridge_stages cimport bridge_decide as _decide, bridge_split as _split
from netstack._fast.cpu cimport CpuBlock, cpu_t, outlist_t
from netstack._fast.ifnet cimport IfnetBlock
from netstack._fast.kassert cimport NS_CHECKED
from netstack._fast.mactable cimport mactable_t
from netstack._fast.mbuf cimport MbufVec, vec_for, m_freem
from netstack._fast.queue cimport RxQueue, TxQueue
from netstack._fast.stages cimport (rx_receive, ether_parse as _parse, ether_local as _local, vec_drop,
                                    fwdq_put as _fwdq_put, fwdq_get as _fwdq_get)
from netstack._fast.transmit cimport if_transmit as _transmit, tx_complete as _complete, tx_drain, tx_handover
from netstack._fast.lock cimport spin_enter, spin_exit

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


cdef cpu_t *here(CpuBlock cpu, MbufVec mv) except NULL:
    """The vector must belong to the CPU that works on it: its mbufs go to that CPU's magazine."""
    if mv.cpu != cpu.cpu.index:
        raise ValueError(f"vector of CPU {mv.cpu} used on CPU {cpu.cpu.index}")
    return cpu.cpu


def explore_hooks(hook: int, store: int = 0, load: int = 0) -> None:
    """Install function addresses that see every atomic access of this module (explore level only)."""
    ns_explore_set(<void *> <size_t> hook, <void *> <size_t> store, <void *> <size_t> load)


def rx_drain(CpuBlock cpu not None, RxQueue rxq not None, MbufVec mv not None, limit: int) -> int:
    """Take up to ``limit`` received frames into an empty vector, refill the ring; how many (paper §3.2.1)."""
    cdef cpu_t *c = here(cpu, mv)
    if mv.vec.n:
        raise ValueError("the vector is not empty")
    return rx_receive(c, rxq.rxq, mv.vec, limit)


def ether_parse(CpuBlock cpu not None, IfnetBlock ifp not None, MbufVec mv not None) -> int:
    """Sanity of each frame and its address keys; drops RUNT, GIANT, IF_DOWN; how many are left."""
    return _parse(here(cpu, mv), ifp.ifp, mv.vec)


def ether_local(CpuBlock cpu not None, IfnetBlock ifp not None, MbufVec mv not None) -> None:
    """Frames of an interface in no bridge: to listeners through the punt ring, else dropped.  After ``ether_parse``."""
    _local(here(cpu, mv), ifp.ifp, mv.vec)


def ether_deliver(CpuBlock cpu not None, IfnetBlock ifp not None, MbufVec mv not None) -> list:
    """Hand the frames of a vector to the local stack of an interface: copies as bytes, counted as delivered."""
    cdef cpu_t *c = here(cpu, mv)
    cdef uint32_t i
    out = mv.frames()
    for i in range(mv.vec.n):
        m_freem(c.pool, c.mag, mv.vec.m[i])
    ns_count_u64(&ifp.ifp.stat[c.index].delivered, mv.vec.n)
    mv.vec.n = 0
    return out


def bridge_decide(CpuBlock cpu not None, BridgeBlock br not None, IfnetBlock ifp not None, MbufVec mv not None) -> int:
    """Learn and look up, frame by frame; keep inside one read section with ``bridge_split``.

    Returns the number of frames decided; 0 when the bridge is down or the interface has left it (the caller then
    uses ``ether_local``).
    """
    cdef cpu_t *c = here(cpu, mv)
    cdef brmap_t *map = <brmap_t *> ns_load_ptr(&br.br.map, ACQREL)
    cdef mactable_t *table = <mactable_t *> ns_load_ptr(&br.br.table, ACQREL)
    cdef uint32_t port = ns_load_u32(&ifp.ifp.port, RELAXED)
    mv.vec.map = NULL
    if map.running == 0 or port >= map.nports or map.port[port].ifp != ifp.ifp:
        return 0
    _decide(c, map, table, &br.br.stat[c.index], port, mv.vec)
    return mv.vec.n


def bridge_split(CpuBlock cpu not None, BridgeBlock br not None, IfnetBlock ifp not None, MbufVec mv not None) -> list:
    """Frames by output, in order: [(interface index, vector)], copies of floods included; consumes ``mv``."""
    cdef cpu_t *c = here(cpu, mv)
    cdef brmap_t *map = <brmap_t *> mv.vec.map
    cdef MbufVec part
    cdef outlist_t *out
    cdef uint32_t i, k, port
    result = []
    if map == NULL:
        return result
    _split(c, ifp.ifp, &br.br.stat[c.index], mv.vec)
    mv.vec.map = NULL
    for i in range(mv.vec.out_ports):
        port = c.port_order[i]
        out = &c.out[port]
        part = vec_for(mv.owner, c.index)
        part.vec.rcvif = mv.vec.rcvif
        part.vec.queue = mv.vec.queue
        for k in range(out.n):
            part.vec.m[k] = out.m[k]
        part.vec.n = out.n
        out.n = 0
        result.append((map.port[port].ifp.index, part))
    mv.vec.out_ports = 0
    return result


def if_transmit(CpuBlock cpu not None, IfnetBlock ifp not None, MbufVec mv not None) -> int:
    """Send a vector: this CPU's TX queue, if_snd, ring; consumes ``mv``; how many frames the queue took (paper
    §5.4)."""
    cdef cpu_t *c = here(cpu, mv)
    cdef uint32_t n = mv.vec.n
    mv.vec.n = 0
    return _transmit(c, ifp.ifp, mv.vec.m, n) if n else 0


def if_start(CpuBlock cpu not None, TxQueue txq not None) -> int:
    """Start a queue whose if_snd holds frames; how many frames it still holds."""
    spin_enter(&txq.txq.lock)
    if txq.txq.stopping == 0:
        tx_drain(cpu.cpu, txq.txq)
    spin_exit(&txq.txq.lock)
    tx_handover(cpu.cpu, txq.txq)
    return txq.snd_len


def tx_complete(CpuBlock cpu not None, TxQueue txq not None) -> int:
    """TX completion handler: take back sent mbufs, restart; how many were taken back."""
    return _complete(cpu.cpu, txq.txq)


def fwdq_put(CpuBlock cpu not None, IfnetBlock ifp not None, MbufVec mv not None) -> int:
    """Classic frame: leave a vector to the bridge softint; consumes ``mv``; FWDQ_FULL drops the rest."""
    return _fwdq_put(here(cpu, mv), ifp.ifp, mv.vec)


def fwdq_get(CpuBlock cpu not None, MbufVec mv not None) -> int:
    """Classic frame: the oldest queued frames of one interface (``mv.rcvif``), keys filled; how many."""
    cdef cpu_t *c = here(cpu, mv)
    if mv.vec.n:
        raise ValueError("the vector is not empty")
    return _fwdq_get(c, mv.vec)


def drop(CpuBlock cpu not None, IfnetBlock ifp not None, MbufVec mv not None, reason: int) -> int:
    """Drop a vector for a disposition (``dispositions.Drop``); how many frames."""
    cdef cpu_t *c = here(cpu, mv)
    cdef uint32_t n = mv.vec.n
    if reason not in _HELP:
        raise ValueError(f"no disposition {reason}")
    vec_drop(c, ifp.ifp, mv.vec, reason)
    return n


def prefix(MbufVec mv not None, MbufVec part not None, n: int) -> int:
    """Move the first ``n`` frames of ``mv`` to an empty ``part`` (a burst fed as smaller vectors); how many."""
    cdef uint32_t i, take = min(max(n, 0), mv.vec.n)
    if part.vec.n or part.cpu != mv.cpu:
        raise ValueError("the part is not empty, or of another CPU")
    part.vec.rcvif = mv.vec.rcvif
    part.vec.queue = mv.vec.queue
    part.vec.nbytes = 0
    for i in range(take):
        part.vec.nbytes += mv.vec.m[i].m_pktlen
        part.vec.m[i] = mv.vec.m[i]
        part.vec.dst[i] = mv.vec.dst[i]
        part.vec.src[i] = mv.vec.src[i]
    for i in range(take, mv.vec.n):
        mv.vec.m[i - take] = mv.vec.m[i]
        mv.vec.dst[i - take] = mv.vec.dst[i]
        mv.vec.src[i - take] = mv.vec.src[i]
    part.vec.n = take
    mv.vec.n -= take
    mv.vec.nbytes -= part.vec.nbytes
    return take
