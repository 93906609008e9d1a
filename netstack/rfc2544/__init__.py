"""Throughput of the bridge after RFC 2544 section 26.1: the highest rate without loss.

The far ends of two wires send at a paced rate and count what comes out of the other wire.

    search.py    the highest rate that passes, by trials             knows no network
    traffic.py   frame sizes, wire rate, addresses, flows            knows no machine
    rig.py       what is measured: kernels, cores, paper's Table 2   data
    dut.py       one machine with two bridged NICs, and its trials
    sweep.py     all points of a run, one row each
    report.py    rows as JSON lines, as CSV, as tables
    results.py   the folder of a report
    plots.py     the paper's Figures 4 to 7 (needs matplotlib)

Called by ``netstack rfc2544``.  Uses a machine through ``netstack.Machine`` only.
"""
