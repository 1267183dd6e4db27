"""The polling threads: what one does in a round, how the control plane commands it and hears of it, and the data
buffers that it owns.
"""
