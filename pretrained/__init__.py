"""Weights in and out. Begin with layouts.py, the tables that both ways read, then build.py."""

from pretrained.build import load_model
from pretrained.read import read
from pretrained.write import export, metadata_of, save_model

__all__ = ["export", "load_model", "metadata_of", "read", "save_model"]
