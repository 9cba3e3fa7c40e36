"""Answers of a trained network to picture files."""
