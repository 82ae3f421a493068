"""The two ways a run ends badly that a person can act on."""


class UserError(Exception):
    """A mistake in config, arguments or data: shown as one line, exit code 2.

    The message names the file, row or key and says what was expected.
    """
