"""How a call comes in and its answer goes out, whatever the method."""
