"""What both ends agree on. Pure: no I/O, no clock, no randomness, no event loop."""
