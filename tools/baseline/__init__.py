"""What others reach with the same pictures. Begin with __main__.py: a function a baseline."""
