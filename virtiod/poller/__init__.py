"""The polling threads: what one does in a round, how the control plane sends it commands and gets answers, and the data
buffers that it owns.
"""
