"""Tests that run in a virtual machine, where virtio controllers are PCI devices.

Each test in tests/guest/test_*.py is collected here and run there, once in a guest without IOMMU ([plain]) and once
behind an Intel IOMMU ([iommu]). It appears in the report as if it had run here. A guest starts once for all tests of
its variant, and Python is 10 to 20 times slower in it: share what is slow to start, keep loads small.

To add a test, write it into a file test_*.py here, like any other pytest test. It runs as root in the guest, in a
tree with the same files. There it may bind drivers, mount and kill as it likes, but it leaves devices as it found them
for the next test, and imports only what image.py's DISTRIBUTIONS bring along.

- devices.py says which devices there are. A test that changes a disk or might break a device gets one of its own.
- The fixture `host` asks the host: for the content of a disk's file, for QEMU to plug, unplug, resize. Its methods are
  in inside.py, and what they do in host.py.
- pci.py finds a device by its name, the kernel's disk of it, and gives it back.
- The fixture `variant` is "plain" or "iommu"; @pytest.mark.variants("plain") keeps a test to one of them.
- @pytest.mark.last is for a test that changes its guest for good.
- A kernel module that a test wants is named in modules.py and loaded by init.sh.

    python -m tests.guest build                            makes the image, which is kept in .cache/guest
    python -m tests.guest run -k smoke --variant plain     or simply pytest tests/guest -k "smoke and plain"
    python -m tests.guest shell --variant iommu            a shell in there
"""
