"""The drawn stand-ins for the five pilots. Begin with __main__.py: a picture, then the folder."""
