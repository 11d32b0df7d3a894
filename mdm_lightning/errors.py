"""The one exception that is addressed to the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend: a bad option, a missing file, a checkpoint that does not fit.

    The message is one line that says what is wrong and what to do about it. Commands print it without a
    traceback and exit with status 1; library callers catch it like any other exception.
    """
