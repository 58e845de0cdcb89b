"""`make soak`: faults without end against the programs that keep results."""
