"""Errors with a meaning: the command line shows those that are a user's to fix as one line, without a traceback."""


class UserError(ValueError):
    """Input that cannot be used: names the key or file, the value found and the fix; exit status 2."""

    status = 2


class AuditError(UserError):
    """An audit found a failure, or a number was not reproduced; exit status 3."""

    status = 3


class PrunedError(Exception):
    """A sweep stopped this trial, because others were better at the same epoch."""
