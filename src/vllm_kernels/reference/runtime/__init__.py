"""What the engine asks of the run time: memory, device attributes, views."""
