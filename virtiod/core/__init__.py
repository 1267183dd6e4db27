"""What all rooms use: errors, DMA memory and its physical addresses, the C structures that compiled modules share,
memory order, the clock, the calls of Linux, tasks that are held until they end.
"""
