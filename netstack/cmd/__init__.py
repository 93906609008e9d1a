"""Operator tools: parse, call the control plane, print.

Each module ``netstack.cmd.NAME`` has one click command called ``command``; ``main`` loads it when
it is asked for.
"""
