"""What others reach with the same pictures. Begin with ways.py: a function a baseline."""
