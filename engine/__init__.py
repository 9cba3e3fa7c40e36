"""How a network learns. Begin with job.py: what learns, and how a batch changes it."""
