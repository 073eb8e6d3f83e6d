"""Errors that are meant for people, and the one way a service ends because of one.

Problem: a user who mistypes an endpoint or loses a file should read one clear line, not a
traceback; a bug should keep its traceback. So the two travel as different exceptions.

Invariant: a `UserError` carries a complete sentence that says what was asked, where, and what to
do. The command line prints it as ``coldboot: TEXT`` and exits with `USER_ERROR_EXIT`. Anything else
that reaches the top is a bug.

Read next: `protocol.logs` (how events are written), `protocol.codec` (`CodecError`, which is about
bytes, not people).
"""

from __future__ import annotations

USER_ERROR_EXIT = 2
"""Exit status of a command that ends with a `UserError`."""


class UserError(Exception):
    """What was asked cannot be done: one line for the user, no traceback."""

    def __init__(self, text: str) -> None:
        """`text`: what was asked, where, what to do. Line breaks become spaces: it is one line."""
        self.text = " ".join(text.split())
        super().__init__(self.text)
