"""How sure an answer is, and how like what was learned its picture is; it travels with weights."""
