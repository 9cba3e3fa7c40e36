"""One picture file of any kind, as pixels."""
