"""The one normalization under which an output and its gold answer are compared.

Every model is read through it, so that none is marked down for a capital
letter or a full stop that another happens to leave out:

1. Unicode NFKC, then casefold;
2. runs of white space become one space, none at the ends;
3. quotes, backticks and asterisks around the whole are dropped, and sentence
   punctuation (. , ; : ! ?) at its end, for as long as there are any.

Nothing inside the text is touched: "billing." is "Billing", "billing issue" is
not, and a text of nothing but punctuation stays as it is.
"""

from __future__ import annotations

import unicodedata

QUOTES = "\"'`*‘’‚“”„«»‹›"  # noqa: RUF001 - typographic quotes are meant
SENTENCE_ENDS = ".,;:!?"


def normalized(text: str) -> str:
    """`text` as it is compared."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = plain
    while (shorter := bare.strip(QUOTES).rstrip(SENTENCE_ENDS).strip()) != bare:
        bare = shorter
    return bare or plain
