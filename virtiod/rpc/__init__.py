"""JSON-RPC 2.0: how operators and their tools drive the daemon.

    framer      bytes in, complete JSON values out; pure
    params      a function's typed parameters as a schema, and the check of what a client sent
    registry    every method with its states, aliases and documentation; one description each
    caller      who calls, with the role that says what they may do
    audit       what the log says of calls that change something
    dispatcher  a JSON value in, the answer out, by jsonrpcserver
    server      the Unix socket
    describe    the methods as data, for the client's command line and the documentation

The methods themselves are one module per family (app, framework, log, notify, thread, bdev, histogram, virtio,
nbd, perf). Each takes the daemon and typed parameters, returns what json.dumps accepts, and raises
VirtiodError (answered with code -errno) or RpcError (answered with its own code).

Names, parameters, results and codes are those of SPDK's JSON-RPC where it has the method.
"""
