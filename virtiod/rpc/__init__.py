"""JSON-RPC 2.0: how operators and their tools drive the daemon. Names, parameters, results and codes are those of
SPDK's JSON-RPC where it has the method.
"""
