"""Exports, which offer bdevs to clients: one interface, and a package for each kind of export."""
