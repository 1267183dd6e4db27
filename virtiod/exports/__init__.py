"""Bdevs offered to the outside: one interface, and a package for each kind of export."""
