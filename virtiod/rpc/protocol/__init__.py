"""How calls are received and answered, whatever the method."""
