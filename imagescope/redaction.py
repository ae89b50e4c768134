"""Keys and passwords are taken out of every text that is shown or kept."""

from __future__ import annotations

import re
from collections.abc import Iterable

SHORTEST = 6  # characters: a shorter "key" (none, EMPTY) protects nothing and occurs in plain words
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with "***" for each of the secrets, and without `user:password@` in addresses."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, "***")
    return _USERINFO.sub("", text)
