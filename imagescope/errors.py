"""The one exception that is meant for the reader of a terminal."""


class UserError(Exception):
    """Something the user can mend: says what was wrong, where, and what to do.

    The command line prints the message alone, without a traceback, and exits with status 1.
    """
