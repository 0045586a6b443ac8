"""The one exception for mistakes a user can fix."""


class UserError(ValueError):
    """A mistake in the user's input: one line that names the key or file, the value found and the fix.

    The command line prints it without a traceback and exits with status 2.
    """
