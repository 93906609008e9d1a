"""Drivers.  They see hardware through registers, rings and interrupt vectors only."""
