"""What the kernels know of a bridge: the published port map, the address table, counters (paper §2.3.2, §3.2.2).

``brmap_t`` is a snapshot: the control plane builds a new one, stores the pointer, waits for a grace period and
frees the
old one.  All policy is in it: who may send, who may learn, which members a flood reaches.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from netstack._fast.defs cimport PORT_MAX, STAT_SLOTS
from netstack._fast.ifnet cimport ifnet_t
from netstack._fast.mactable cimport mactable_t, AddressTable
from netstack._fast.pserialize cimport psz_t, PSerialize

cdef enum:
    OUT_UNKNOWN = 0x100          # flood to members that discover
    OUT_GROUP = 0x101            # flood to all members, and to local listeners
    OUT_STACK = 0x102            # the ingress port does not forward: local stack of the ingress interface only
    OUT_STP = 0x103              # a BPDU for the spanning tree engine
    OUT_DROP = 0x200             # + disposition
    OUT_LOCAL = 0x300            # + port that owns the destination address
    INGRESS_FORWARD = 0
    INGRESS_LOCAL = 1            # disabled, listening, blocking
    INGRESS_LEARN = 2            # learning state: learn, then drop

cdef struct bport_t:
    ifnet_t *ifp                 # NULL: no such member
    uint8_t ingress              # INGRESS_*
    uint8_t learn                # learn sources that arrive here
    uint8_t is_protected
    uint8_t stp                  # BPDUs go to the spanning tree engine
    uint32_t egress              # 0: may send; else 1 + the disposition of what it may not send
    uint8_t port                 # the member's own number: where its frames go
    uint8_t tag                  # the number under which sources that arrive here are learned
    uint16_t pad
    uint32_t nunknown            # flood lists by ingress port, in member order
    uint32_t ngroup
    uint8_t *unknown
    uint8_t *group

cdef struct brmap_t:
    uint32_t nports              # highest port + 1; tags may be above it
    uint32_t running
    uint32_t forward_control     # forward 01:80:c2:00:00:0x as NetBSD does
    uint32_t pad
    bport_t port[PORT_MAX + 1]   # by the number in a table word; a member's tag leads to the member, a dead one nowhere
    uint8_t lists[1]             # storage of the flood lists

cdef struct brstat_t:            # one per CPU
    uint64_t ipackets            # frames taken in for forwarding
    uint64_t ibytes
    uint64_t imcasts
    uint64_t learned
    uint64_t moved
    uint64_t table_full
    uint64_t flooded
    uint64_t spare[9]            # up to 128 bytes: no two CPUs on one pair of lines

cdef struct bridge_t:
    brmap_t *map                 # published; read inside a read section
    mactable_t *table            # likewise
    psz_t *psz
    brstat_t *stat               # STAT_SLOTS blocks
    uint32_t index
    uint32_t pad

cdef class BridgeBlock:
    cdef bridge_t *br
    cdef readonly AddressTable table
    cdef readonly PSerialize psz
    cdef object _map_keep
