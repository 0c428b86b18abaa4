"""Addresses and messages without the passwords in them: one function for all that is printed, logged or stored.

A text is searched for the forms in which a password stands in an address, and for the passwords that this process was
given. What is a plain short word is hidden in an address alone, for else it would be hidden in every sentence; the value of a
variable that is a password by its name is hidden from six letters on, where it stands as a word of its own.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote, unquote_plus

SIGN = "***"
"""What stands in place of a password."""
SECRET = (
    r"(?:[\w.-]{0,40}(?:passw|passphrase|pwd|secret|token|credential|signature|assertion"
    r"|(?:api|access|account|shared|private)_?-?key)[\w.-]{0,40}|pass|auth|sig|key|jwt|code|otp|sas)"
)
"""Names of parameters of an address whose value is hidden."""
KEYWORD = (
    r"(?:\w{0,40}(?:password|passwd|pwd|passphrase|secret|(?:access|account|shared|private)_?key|accesssignature)"
    r"|(?:\w{1,40}_)?(?:token|api_?key|jwt))"
)
"""Names whose value is hidden outside of an address too: `password=...` of a driver, `"password": "..."` of a dict."""
USER = r"(?![/\[])[^\s:/?#@]{0,200}:"
# After `scheme://`, `//`, or the `scheme:/` of a slip of the pen.
LOGIN = rf"(?:(?<!/)//|\w:/){USER}"
# Of a web address a port with a path behind it is no password, unless a host with a port of its own follows. To a driver of
# a database it is one, up to the @.
PORT = r"\d+[/?#](?!\S{0,1000}@[\w.\-\[\]]{1,200}:\d)"
# Lengths are bounded, so that a text made to be slow is not.
RULES = tuple(
    (re.compile(rule), rf"\g<1>{SIGN}")
    for rule in (
        # user:password@, up to the last @ before a blank.
        rf"(?i)(\bhttps?://{USER})(?!{PORT})\S{{0,1000}}(?=@)",
        rf"(?i)(?<!\bhttp:)(?<!\bhttps:)({LOGIN})\S{{0,1000}}(?=@)",
        # A password with blanks in it; a port and then a sentence are none.
        rf"(?i)({LOGIN})(?!\d+[\s/?#])[^\s@'\"<>]{{1,200}}(?:[ \t][^\s@'\"<>]{{1,200}}){{1,5}}(?=@)",
        # user:password@host:port without anything before it.
        r"(?<![\w@/.:*-])([a-zA-Z][\w.+-]{0,100}:)(?!/)[^\s'\"<>]{1,500}(?=@[\w.\-\[\]]{1,200}:\d{1,5}(?!\w))",
        # Of a web address the user alone may be a token.
        r"(?i)(\bhttps?://)[^\s:/?#@]{1,1000}(?=@)",
        # The same with percent signs, as an address inside of another is written.
        r"(?i)(%3A(?:%2F|/){2}[^\s&:%]{0,200}(?:%3A|:))[^\s&]{0,1000}(?=%40)",
        rf"(?i)((?:[?&;]|%3F|%26){SECRET}(?:=|%3D))(?:(?!%26)[^&;#\s'\"<>])+",
        rf"(?i)((['\"]){KEYWORD}\2\s*:\s*[bu]?(['\"]))(?:(?!\3).)+",
        rf"(?i)(\b{KEYWORD}\s?=\s?(['\"]))(?:(?!\2).)+",
        rf"(?i)(\b{KEYWORD}\s?=\s?)[^\s'\",;&]+",
        r"(?i)(\bauthorization\W{1,6}(?:basic|bearer)\s+)[^\s'\"]+",
    )
)
LIKELY = re.compile(r"(?i)//|:/|@|%3a|pass|pwd|secret|token|key|auth|sig|credential|jwt|code|otp|sas|assertion")
"""A text without any of these is left to the search for known passwords."""
NAMED = re.compile(
    r"(?i)(password|passwd|passphrase|token|credential|connection_string|(api|access|account|storage|private)_?key)$|^PGPASSWORD$"
    r"|SECRET"
)
"""Environment variables whose whole value is a password."""
ADDRESS = re.compile(r"(?i)address|ur[il]$|storage|proxy|shared|server|host|dsn")
"""Environment variables whose value may be an address without `scheme://`."""
OWN_WORDS = frozenset(("prepare", "teacher", "student", "evaluate"))
"""Names of stages, by which records are found: as passwords they are hidden in addresses alone."""
LEAST, WORD, LONG_WORD = 4, 6, 8
"""Letters of a password from which it is hidden wherever it stands; of a plain word or number that is a variable's whole value,
where it is a word of its own; and of any plain word or number.
"""
_told: set[str] = set()


def masked(text: str) -> str:
    """The text with every password and token of an address in it as ***; safe to use twice."""
    text = by_form(text)
    forms, words = known_forms()
    for form in forms:
        if form in text:
            text = text.replace(form, SIGN)
    for word in words:
        if word in text:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", SIGN, text)
    return text


def by_form(text: str) -> str:
    """The text without the passwords that can be told by where they stand; whatever this process was given plays no part."""
    if LIKELY.search(text):
        for rule, instead in RULES:
            text = rule.sub(instead, text)
    return text


def remember(address: str) -> None:
    """Hide the passwords of an address that came by another way than the environment."""
    _told.update(secrets_of(address))


def masked_values(values: Any) -> Any:
    """The same nested lists and dicts, every string in them without passwords; names of a dict stay."""
    if isinstance(values, str):
        return masked(values)
    if isinstance(values, Mapping):
        return {name: masked_values(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [masked_values(value) for value in values]
    return values


def secrets_of(text: str) -> Iterator[str]:
    """Passwords and tokens in the addresses of a text, as they are written there."""
    addresses = re.split(r"\s|(?=\b[a-zA-Z][\w+.\-]{0,30}://)", text)
    if text.count("//") <= 1 and not re.search(r":\d+\s", text):  # its password may hold blanks
        addresses.append(text)
    for address in addresses:
        # `scheme://`, `//`, the `scheme:/` of a slip of the pen, or nothing at all
        scheme, rest = re.findall(r"(?s)\A(?:([a-zA-Z][\w+.\-]{0,30}):/{1,2}|//|)(.*)", address)[0]
        web = scheme.lower().startswith("http")
        user, at, _ = rest.rpartition("@")
        if at and not rest.startswith("/") and not (web and re.match(rf"[^/?#@]*:{PORT}", rest)):
            whole = user.partition(":")[2]
            yield whole
            if web:
                yield user.partition(":")[0]  # may be a token
            if re.search(r"[@/?#:,]", whole):  # several hosts, or a library that cuts the address elsewhere
                yield from re.split(r"[@/?#:,]", whole)
        yield from re.findall(rf"(?i)(?:^|[?&;]){SECRET}=([^&;#\s]+)", rest)


def known_forms() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every way in which a password that this process knows may be written, longest first; and plain words that are such."""
    return _forms(tuple(os.environ.items()), frozenset(_told))


@lru_cache(maxsize=8)
def _forms(given: tuple[tuple[str, str], ...], told: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    named = [value for name, value in given if NAMED.search(name)]
    values = [value for name, value in given if "://" in value or ("@" in value and ADDRESS.search(name))] + named
    secrets = set(told) | {secret for value in values for secret in secrets_of(value)}
    plain = {form for secret in secrets for form in (secret, unquote(secret), unquote_plus(secret)) if is_long(form)}
    whole = {value for value in named if "://" not in value}
    plain |= {value for value in whole if is_long(value) and not is_word(value)}
    forms: set[str] = set()
    for secret in plain:
        forms |= {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret)}
        forms |= {repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    words = {value for value in whole if is_word(value) and len(value) >= WORD and value not in OWN_WORDS}
    return tuple(sorted(forms, key=lambda form: (-len(form), form))), tuple(sorted(words))


def is_word(secret: str) -> bool:
    """Whether it is a number or in small letters alone, as words of sentences are."""
    return secret.isdigit() or (secret.isalpha() and secret.islower())


def is_long(secret: str) -> bool:
    """Whether it is so long that it stands in no sentence by chance."""
    return len(secret) >= (LONG_WORD if is_word(secret) else LEAST)


def mask_streams() -> None:
    """Hide passwords in all that this process prints from here on, by whichever library."""
    if not isinstance(sys.stdout, MaskedStream):
        sys.stdout = MaskedStream(sys.stdout)
    if not isinstance(sys.stderr, MaskedStream):
        sys.stderr = MaskedStream(sys.stderr)


class MaskedStream:
    """A stream of text that hides passwords in all that is written to it, by whichever library."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without passwords; returns the number of characters it had."""
        self._stream.write(masked(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each line without passwords."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)
