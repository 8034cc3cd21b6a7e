"""Packed models against their peers and against the machine's own limits; `__main__` is the command."""
