"""A mistake that a person can act on, and what an exception says in one line."""


class UserError(Exception):
    """A mistake in config, arguments or data: shown as one line, exit code 2.

    The message names the file, row or key and says what was expected.
    """


def one_line(error: BaseException) -> str:
    """All that an exception says, as one line."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, 300 characters at most; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
