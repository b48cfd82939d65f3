"""Which settings are secret. Their values stand in no runtime environment, log or row."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL", "TOKENS", "SECRETS", "PASSWORDS", "KEYS", "CREDENTIALS"}
"""A variable is secret if a word of its name is one of these: `AWS_ACCESS_KEY_ID`."""

_SWITCHES = {"", "0", "1", "true", "false", "yes", "no", "on", "off"}
"""Values that are no secret, whatever the name: `HF_HUB_DISABLE_IMPLICIT_TOKEN=1`."""

_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s'\"]+:[^/@\s'\"]+(?=@)")
"""User and password in an address."""

_SHORTEST = 6
"""Shorter values are not looked for in texts: they would be found everywhere."""


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is secret, by a word of its name or by a password in its value.

    >>> is_secret("HF_TOKEN", "hf_abcdef"), is_secret("AWS_REGION", "eu-west-1"), is_secret("HF_ENDPOINT", "https://me:pass@hub.example")
    (True, False, True)
    """
    if value.lower() in _SWITCHES:
        return False
    return not _WORDS.isdisjoint(name.upper().split("_")) or _IN_ADDRESS.search(value) is not None


def conceal(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text in which the values of secret variables, and passwords in addresses, are replaced by stars.

    >>> conceal("401 for s3://me:pass@bucket with hf_abcdef", {"HF_TOKEN": "hf_abcdef"})
    '401 for s3://***@bucket with ***'
    """
    values = {value for name, value in environment.items() if len(value) >= _SHORTEST and is_secret(name, value)}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return _IN_ADDRESS.sub("***", text)
