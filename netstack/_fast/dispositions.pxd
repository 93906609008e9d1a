"""Every way to lose a frame, named.  Adding one means adding help text (``dispositions.pyx``) and a test."""

cpdef enum Drop:
    RUNT = 0
    GIANT = 1
    IF_DOWN = 2
    RX_MISSED = 3
    NO_MBUF = 4
    NO_PROTO = 5
    NOT_FOR_US = 6
    OWN_SOURCE = 7
    CONTROL_ADDR = 8
    SAME_MEMBER = 9
    NO_MEMBER = 10
    STP_STATE = 11
    PROTECTED = 12
    NO_EGRESS = 13
    SND_FULL = 14
    PUNT_FULL = 15
    FWDQ_FULL = 16
    STOPPED = 17
    WIRE_FULL = 18
    TX_ERROR = 19
    HOOK = 20
    NDROP = 24
