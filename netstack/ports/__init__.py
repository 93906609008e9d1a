"""The real world: ports of the host that an interface of a machine can stand on.

A host port is an object with ``name``, ``mac``, ``mtu``, ``receivers`` and ``transmitters``
(engines of ``_fast.hostport``, one a queue), ``missed``, ``state()``, ``clear_errors()`` and
``close()``.
``dev.portif`` builds an interface from one.

    af_packet   an existing Linux interface, through packet sockets
    af_xdp      the same through AF_XDP sockets, with ``bpf`` for the program that needs
    tap         a TAP interface, this end of which is the process
    pcap        capture files, in and out (no host port: plain readers and writers)
    spec        ``veth0``, ``tap:tap0``, ``pcap:in.pcap``: how a command line names them
    hostif      what the kernel says of an interface; names and errors
    hostport    what both kinds of host port have in common
    rtnl        what an interface dropped, by the host's count

Nothing here knows of bridges, machines or drivers.
"""
