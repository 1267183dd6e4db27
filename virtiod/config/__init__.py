"""Configuration: files of RPC calls, which are checked, and made at start and on reload; and the state file."""
