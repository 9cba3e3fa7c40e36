"""A class-per-folder set from a board's public JSON API."""
