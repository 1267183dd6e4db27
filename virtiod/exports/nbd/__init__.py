"""NBD: `wire` (constants and structs), `handshake` (negotiation, pure), `server` (sockets), `export` (what is
offered, and the connections to it). The transmission phase runs in the data plane: `virtiod.exports.nbd.connection`.

The specification is https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, cited by section.
"""
