"""Models of what tests can only sample, searched exhaustively within bounds.

| model | of what | searched by |
|---|---|---|
| kept_writes.pml | slots, ring, epochs, kept writes and flushes of a disk whose device may be lost at any step | Spin |
| ring.py | publishing, kicks and interrupts of the split ring, between driver and device | search.py, on memory.py |
| sleep.py | a poller that goes to sleep, and whoever sends it messages | search.py, on memory.py |

Each model is checked twice: as it is, and with one rule or barrier taken away, which it must notice.
"""
