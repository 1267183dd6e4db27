"""Configuration: files of RPC calls, checked, made at start and again on reload, and the state that is kept."""
