"""Configuration: the schema of the shell, the only instantiation, and the check."""
