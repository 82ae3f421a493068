"""Bearer tokens: where they come from, how they are kept, how one is recognised."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from consilience.errors import UserError

VARIABLE, FILE_VARIABLE = "CONSILIENCE_TOKEN", "CONSILIENCE_TOKEN_FILE"
_SHORTEST = 16


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def read_hashes(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Hashes of the tokens that the environment names; none where it names none.

    `CONSILIENCE_TOKEN` is a token, `CONSILIENCE_TOKEN_FILE` a file with one on each line.

    Raises:
        UserError: both are set, the file cannot be read, or a token is short or not one word of ASCII.
    """
    token, file = environment.get(VARIABLE), environment.get(FILE_VARIABLE)
    if token is None and file is None:
        return ()
    if token is not None and file is not None:
        raise UserError(f"{VARIABLE} and {FILE_VARIABLE} are both set; expected one of them")
    if token is not None:
        return (hash_token(_checked(token.strip(), VARIABLE)),)
    try:
        lines = Path(str(file)).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{FILE_VARIABLE}: the file it names cannot be read; expected a token on each line") from None
    found = [
        hash_token(_checked(line.strip(), f"{FILE_VARIABLE}: line {number}"))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise UserError(f"{FILE_VARIABLE}: the file it names is empty; expected a token on each line")
    return tuple(found)


def hash_token(token: str) -> str:
    """sha256, hexadecimal. Tokens are long and random, so a slow or salted hash would protect them no better."""
    return hashlib.sha256(token.encode()).hexdigest()


def recognise(token: str, hashes: Sequence[str]) -> str | None:
    """The hash among `hashes` that is the token's, compared in constant time; None where there is none."""
    given = hash_token(token)
    found = None
    for known in hashes:
        if hmac.compare_digest(given, known):
            found = known
    return found


def _checked(token: str, where: str) -> str:
    if len(token) < _SHORTEST or not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise UserError(f"{where}: expected a token of {_SHORTEST} or more printable ASCII characters without spaces")
    return token
