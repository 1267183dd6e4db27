"""What RPC, configuration files and HTTP know of a method: name, parameters and results, and who may call it."""
