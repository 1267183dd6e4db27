"""What RPC, configuration files and HTTP know of a method: its name, its parameters and results, and who may call it."""
