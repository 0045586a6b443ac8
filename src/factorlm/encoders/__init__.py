"""Encoders: the vectors of the items a user had to one vector of the user."""
