"""Dispositions: the closed list of reasons for which a frame may be dropped, with help text for the operator.

Context: data.  The counters live per interface and per CPU (``ifnet.pxd``); ``Machine.stats()`` and ``ifconfig
-v`` read
them through the names below.  There is no "other": a frame that is lost without one of these names is a bug, and
``Machine.audit()`` finds it.
"""
from netstack._fast.dispositions cimport Drop as _Drop

HELP = {
    int(_Drop.RUNT): ("runt", "shorter than the 14-byte Ethernet header"),
    int(_Drop.GIANT): ("giant", "longer than the MTU allows (1514 bytes, 1518 with a VLAN tag)"),
    int(_Drop.IF_DOWN): ("if_down", "the interface is not up and running"),
    int(_Drop.RX_MISSED): ("rx_missed", "the NIC had no receive descriptor left"),
    int(_Drop.NO_MBUF): ("no_mbuf", "the mbuf pool was empty"),
    int(_Drop.NO_PROTO): ("no_proto", "for this machine, but nothing listens for its protocol"),
    int(_Drop.NOT_FOR_US): ("not_for_us", "addressed to another station on an interface that is in no bridge"),
    int(_Drop.OWN_SOURCE): ("own_source", "has the address of a bridge member as its source: our own frame came back"),
    int(_Drop.CONTROL_ADDR): ("control_addr", "addressed to 01:80:c2:00:00:00..0f, which a bridge never forwards"),
    int(_Drop.SAME_MEMBER): ("same_member", "its destination is on the member it came from: filtered"),
    int(_Drop.NO_MEMBER): ("no_member", "the member it was to leave by has left the bridge"),
    int(_Drop.STP_STATE): ("stp_state", "the port state does not let it pass"),
    int(_Drop.PROTECTED): ("protected", "from one protected (private) member to another"),
    int(_Drop.NO_EGRESS): ("no_egress", "unknown or group destination and no other member may send it"),
    int(_Drop.SND_FULL): ("snd_full", "the send queue if_snd was full"),
    int(_Drop.PUNT_FULL): ("punt_full", "the per-CPU queue to the Python handlers was full"),
    int(_Drop.FWDQ_FULL): ("fwdq_full", "the bridge forwarding queue of the classic driver frame was full"),
    int(_Drop.STOPPED): ("stopped", "the device was stopped while it was held"),
    int(_Drop.WIRE_FULL): ("wire_full", "nobody takes frames from the far end of the wire"),
    int(_Drop.TX_ERROR): ("tx_error", "the host interface refused it"),
    int(_Drop.HOOK): ("hook", "a Python hook consumed it"),
}
NAMES = tuple(HELP[i][0] for i in range(len(HELP)))
