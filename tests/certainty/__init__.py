"""How sure answers are, and how like what was learned."""
