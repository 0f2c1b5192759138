"""Keys and addresses as people paste them, and what keeps one from being usable.

Nothing here repeats a key, not even a wrong one.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

ADDRESSES = ("api_base", "base_url")
QUOTES = "\"'`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb"
# What documentation and examples have in a key's place. A server of one's own may be happy
# with "EMPTY" or "none", so that words alone are none.
PLACEHOLDER = re.compile(
    r"\.\.\.|\u2026|\A<.*>\Z|\A\$\{?\w+\}?\Z|\A%\w+%\Z"
    r"|your[-_ ]?(\w+[-_ ]){0,3}(key|token)|(paste|insert|put)[-_ ]\w*.*(key|token|here)",
    re.IGNORECASE,
)
ENDPOINT = re.compile(r"(?P<base>.*?)/(chat/completions|completions|responses|embeddings|models)/*")
VERSIONED = re.compile(r"/v\d|/openai\b", re.IGNORECASE)


def key_problem(key: str, *, placeholders: bool = True) -> str | None:
    """Why `key`, white space at its ends aside, can't be a key; None if it can.

    Args:
        placeholders: whether one is wrong. A server of one's own may want any key at all.
    """
    bare = key.strip()
    if not bare:
        return None
    if placeholders and PLACEHOLDER.search(bare):
        return "is a placeholder; put your own key there"
    if bare[0] in QUOTES or bare[-1] in QUOTES:
        return "is in quotation marks, which are no part of a key; take them off"
    if bare.lower().startswith("bearer "):
        return "begins with 'Bearer ', which is put before it by itself; give the key alone"
    for place, sign in enumerate(bare, start=1):
        if not sign.isascii():
            return f"has U+{ord(sign):04X} at position {place}; a key is plain ASCII: copy it again"
        if not sign.isprintable() or sign.isspace():
            called = "white space" if sign.isspace() else "a control character"
            return f"has {called} at position {place}; a key has none: copy it again"
    return None


def header_problem(value: object) -> str | None:
    """Why an HTTP header can't have this value; None if it can."""
    if not isinstance(value, str):
        return "must be text"
    if all(sign.isascii() and (sign.isprintable() or sign == "\t") for sign in value):
        return None
    return "holds a line break, a control character or a character that is not ASCII"


def address_problem(address: str) -> str | None:
    """Why `address` can't be the base of a server's API; None if it can."""
    bare = address.strip()
    if not bare:
        return "is empty; leave it out, or name a server, as in http://localhost:8000/v1"
    if bare[0] in QUOTES or bare[-1] in QUOTES:
        return f"is {bare}, in quotation marks that are no part of it"
    if any(sign.isspace() or not sign.isprintable() for sign in bare):
        return f"is {bare!r}, and an address has no white space in it"
    if "://" not in bare:
        near = "http" if re.match(r"(localhost|[\d.]+|\[.*\])(:|/|\Z)", bare) else "https"
        return f"is {bare}, and has no scheme; write {near}://{bare.lstrip('/')}"
    try:
        parts = urlsplit(bare)
        host, _ = parts.hostname, parts.port
    except ValueError as wrong:
        return f"is {without_login(bare)}, which is no address: {wrong}"
    if parts.scheme.lower() not in ("http", "https"):
        return f"is {without_login(bare)}, and must begin with http:// or https://"
    if not host:
        return f"is {bare}, and names no host"
    return None


def proxy_problem(address: str) -> str | None:
    """Why the proxy that the environment names for `address` can't be one; None if it can."""
    parts = urlsplit(address)
    proxies = getproxies()
    kind = parts.scheme if proxies.get(parts.scheme) else "all"
    proxy = proxies.get(kind)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    names = [name for name in os.environ if name.lower() == f"{kind}_proxy"]
    source = f"the environment variable {names[0]}" if names else "the system's setting"
    bare = proxy if "://" in proxy else f"http://{proxy}"
    if bare.startswith("socks"):
        wrong: str | None = "is a SOCKS proxy, which can't be used"
    else:
        wrong = address_problem(bare)
    if wrong is None:
        return None
    host = parts.hostname
    return f"{source}: {wrong}; name an HTTP proxy, or put {host} into NO_PROXY"


def endpoint_problem(address: str) -> str | None:
    """That an OpenAI client's base URL has the path of one of its endpoints, if it has."""
    found = ENDPOINT.fullmatch(address.partition("?")[0])
    if found is None:
        return None
    return (
        f"is the address of one endpoint; write what comes before it: "
        f"{without_login(found['base'])}"
    )


def likely_base(address: str) -> str | None:
    """Where an OpenAI-compatible server at `address` probably answers, if elsewhere."""
    path = urlsplit(address).path
    return None if VERSIONED.search(path) else f"{address.rstrip('/')}/v1"


def without_login(address: str) -> str:
    """`address` without the name and password that may stand in it, and without its query."""
    scheme, mark, rest = address.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"
