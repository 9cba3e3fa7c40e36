"""A run as one page. Begin with __main__.py: what each section shows; page.html lays it out."""
