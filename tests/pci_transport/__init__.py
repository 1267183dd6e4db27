"""The PCI transport, against made-up registers; tests/guest has real devices."""
