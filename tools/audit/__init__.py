"""What is wrong with a folder of pictures, and what to do about it."""
