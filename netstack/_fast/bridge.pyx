"""The kernels' view of a bridge as an object: publishing port maps and tables (paper §2.3.2, §3.2.2).

Context: control plane, under the bridge's lock.  ``publish`` and ``set_table`` only store a pointer; the caller
waits for
a grace period before it lets the returned old object die.
"""
from collections import namedtuple as _namedtuple

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from netstack._fast.atomics cimport ns_read_u64, ns_store_u32, RELAXED, ns_store_ptr, ACQREL
from netstack._fast.ifnet cimport IfnetBlock, NO_PORT
from netstack._fast.lines cimport own_lines

PortSpec = _namedtuple("PortSpec", "ifnet ingress learn is_protected stp egress_drop unknown group tag", defaults=(-1,))
PortSpec.__doc__ = """One member of a port map.

ifnet: IfnetBlock or None (slot unused) - ingress: "forward", "local", "learn" - learn, is_protected, stp: bool -
egress_drop: disposition of frames that may not leave here, -1 when they may - unknown, group: ports that a flood from
here reaches, in order - tag: number under which sources are learned, -1: the port itself.
"""
INGRESS = {"forward": int(INGRESS_FORWARD), "local": int(INGRESS_LOCAL), "learn": int(INGRESS_LEARN)}
_COUNTERS = ("ipackets", "ibytes", "imcasts", "learned", "moved", "table_full", "flooded")


cdef class _PortMap:
    """A published snapshot; lives as long as somebody holds it."""
    cdef brmap_t *map
    cdef list _ifnets

    def __dealloc__(self):
        free(self.map)


cdef class BridgeBlock:
    """Bridge ``index`` with its address table and the pserialize object its readers use."""

    def __cinit__(self, index: int, AddressTable table not None, PSerialize psz not None):
        self.br = <bridge_t *> calloc(1, sizeof(bridge_t))
        if self.br == NULL:
            raise MemoryError()
        self.br.stat = <brstat_t *> own_lines(STAT_SLOTS * sizeof(brstat_t))
        self.table = table
        self.psz = psz
        self.br.table = table.table
        self.br.psz = &psz.psz
        self.br.index = index
        self.publish((), False, False)

    def __dealloc__(self):
        if self.br != NULL:
            free(self.br.stat)
            free(self.br)

    def publish(self, ports, running: bool, forward_control: bool):
        """Replace the port map; returns the old one, to be held until a grace period has passed.

        ``ports`` is a sequence of ``PortSpec``, its position the port number.  ValueError for more than 252.
        """
        cdef _PortMap new = _PortMap()
        cdef uint32_t n = len(ports), i, at = 0
        cdef bport_t *p
        if n > PORT_MAX:
            raise ValueError(f"a bridge has at most {PORT_MAX} members, not {n}")
        total = sum(len(s.unknown) + len(s.group) for s in ports)
        new.map = <brmap_t *> calloc(1, sizeof(brmap_t) + total)
        if new.map == NULL:
            raise MemoryError()
        new._ifnets = [s.ifnet for s in ports]
        new.map.nports = n
        new.map.running = running
        new.map.forward_control = forward_control
        for i in range(n):
            spec = ports[i]
            p = &new.map.port[i]
            if spec.ifnet is None:
                continue
            p.ifp = (<IfnetBlock?> spec.ifnet).ifp
            p.ingress = INGRESS[spec.ingress]
            p.learn = spec.learn
            p.is_protected = spec.is_protected
            p.stp = spec.stp
            p.egress = spec.egress_drop + 1
            p.port = i
            p.tag = i if spec.tag < 0 else spec.tag
            for field in (spec.unknown, spec.group):
                for q in field:
                    if not 0 <= q < <int> n or ports[q].ifnet is None:
                        raise ValueError(f"flood list of port {i} names port {q}, which does not exist")
            p.unknown = &new.map.lists[at]
            p.nunknown = len(spec.unknown)
            for q in spec.unknown:
                new.map.lists[at] = q
                at += 1
            p.group = &new.map.lists[at]
            p.ngroup = len(spec.group)
            for q in spec.group:
                new.map.lists[at] = q
                at += 1
            if spec.tag >= 0 and spec.tag != i:
                if spec.tag >= PORT_MAX or new.map.port[spec.tag].ifp != NULL \
                        or (spec.tag < <int> n and ports[spec.tag].ifnet is not None):
                    raise ValueError(f"port {i} cannot learn as {spec.tag}: no number, or another's")
                new.map.port[spec.tag] = p[0]
        old = self._map_keep
        ns_store_ptr(&self.br.map, new.map, ACQREL)
        self._map_keep = new
        return old

    def set_table(self, AddressTable table not None):
        """Replace the address table; returns the old one, to be held until a grace period has passed."""
        old = self.table
        ns_store_ptr(&self.br.table, table.table, ACQREL)
        self.table = table
        return old

    def attach(self, IfnetBlock ifp not None, port: int) -> None:
        """Tell an interface that it is a member: its frames take the bridge's stage table from now on."""
        if not 0 <= port < PORT_MAX:
            raise ValueError(f"no port {port}")
        ns_store_u32(&ifp.ifp.port, port, RELAXED)
        ns_store_ptr(&ifp.ifp.bridge, self.br, ACQREL)

    def detach(self, IfnetBlock ifp not None) -> None:
        """Tell an interface that it is a member no longer."""
        ns_store_ptr(&ifp.ifp.bridge, NULL, ACQREL)
        ns_store_u32(&ifp.ifp.port, NO_PORT, RELAXED)

    def counters(self) -> dict:
        """Frames taken in for forwarding, learning and flooding, summed over CPUs."""
        cdef uint32_t i
        cdef uint64_t *words
        total = [0] * len(_COUNTERS)
        for i in range(STAT_SLOTS):
            words = &self.br.stat[i].ipackets
            for k in range(len(_COUNTERS)):
                total[k] += ns_read_u64(&words[k])
        return dict(zip(_COUNTERS, total, strict=True))
