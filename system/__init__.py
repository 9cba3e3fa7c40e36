"""What a program meets in its machine: names and kinds of files, streams, signals, memory, other
processes. utils.py stands on it. Begin at stopping.py.
"""
