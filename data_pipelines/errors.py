"""The one exception of this package: a one-line message that names the file, line or sample at fault."""


class DataError(ValueError):
    """A user's file, line or sample cannot be used; the message is complete and fits one line."""
