"""Configuration: files of RPC calls read and checked, made at start, made again on reload, and the state kept.

document       a file's form, and where in it everything stands
check          calls against the methods' schemas
saved          the calls that bring a daemon into the state that it is in
configuration  what a daemon does with all of these
"""
