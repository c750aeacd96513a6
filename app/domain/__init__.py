"""The pure core: definitions, expressions, planning, events. No await, no I/O, no clock, no randomness."""
