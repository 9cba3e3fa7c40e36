"""A page on this machine that shows a trained network."""
