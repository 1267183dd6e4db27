"""JSON-RPC 2.0, by which operators and their tools control the daemon. Names, parameters, results and codes are those
of SPDK's JSON-RPC where it has the method.
"""
