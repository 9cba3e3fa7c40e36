"""Tables and YAML as people have them, files from an address, files put elsewhere."""
