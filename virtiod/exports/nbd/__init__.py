"""NBD: negotiation on the event loop, transmission on the pollers. Sections are those of the protocol document,
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
"""
