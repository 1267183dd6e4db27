"""What all rooms stand on: errors, DMA memory and its physical addresses, the C structures that compiled modules share,
memory order, the clock, the calls of Linux, tasks that nobody can lose.
"""
