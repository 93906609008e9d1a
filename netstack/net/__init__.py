"""Layer 2: interfaces, Ethernet input and output, the bridge (paper §2.1, §2.3.2, §3.2.2).

``ifnet`` is the interface, ``ether`` and ``bridge`` are its data plane, ``bridge_ctl`` and
``bridge_rtable`` the bridge's control plane, ``netisr`` the border to whatever is above layer 2.
Nothing here reads a clock, starts a thread or knows a device: the machine and the drivers do.
"""
