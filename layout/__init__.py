"""What lies in a folder of pictures: its classes, its parts, its split."""
