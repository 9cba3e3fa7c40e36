"""The drawn stand-ins for the five pilots. Begin with picture.py; __main__.py fills a folder."""
