"""What happens inside a network, and what a run left. Begin with layers.py, and with record.py."""
