"""What a weights file is. Begin with facts.py: what is known of one; words.py says it."""
