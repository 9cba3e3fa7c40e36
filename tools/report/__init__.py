"""A run as one page. Begin with page.py: what each section shows; page.html lays it out."""
