"""Bdevs offered to the outside. interface.py says what an export is, table.py which kinds there are."""
