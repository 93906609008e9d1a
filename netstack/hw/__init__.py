"""The silicon: device models.  They know registers, rings and wires, never drivers or the stack."""
