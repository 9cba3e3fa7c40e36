"""A finished run in the formats of others, each with the proof that it answers as the run does."""
