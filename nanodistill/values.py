"""When two answers are the same: one set of rules for evaluation, votes and agreement.

Texts are compared in normal form (`normalized`): case, white space, zero-width characters, the
Unicode form, quotes and emphasis around the whole and a full stop at its end don't count. Signs,
marks and emoji do: "-1" is not "1", "C++" is not "C", "x²" is not "x2".

Numbers are compared by value. Whole numbers are equal only if they are the same; a tolerance is
for fractions. Digits that begin with a needless 0 ("007") are a code, and are compared as
written. A point or a comma before other than three digits is the decimal sign ("3.5", "3,50"); a
comma before three digits separates thousands ("1,234"), unless there is a 0 before it ("0,500"),
and so do points that come twice or before a decimal comma ("1.234.567", "1.234,50"). Of two
numbers with a currency or percent sign the signs have to agree.

JSON values are compared field by field. A missing field is null, and null is not "". true is
neither 1 nor "true". A list is in order, unless its schema says `uniqueItems` (a pydantic set) or
`"unordered": true` (in a field's `json_schema_extra`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from typing import Any

Schema = Mapping[str, Any]

IGNORED = dict.fromkeys(
    map(
        ord,
        "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\ufe0e\ufe0f"
        "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    )
)
"""Characters that nobody sees: zero widths, directions, how an emoji is drawn."""
SHOWN_ALIKE = ("<wide>", "<narrow>", "<noBreak>", "<compat>",
               "<initial>", "<medial>", "<final>", "<isolated>")  # fmt: skip
"""Compatibility forms without a meaning of their own; superscripts and fractions have one."""
HYPHENS = str.maketrans(dict.fromkeys("\u2010\u2011\u2212\ufe63\uff0d", "-"))
DASH_AS_SIGN = re.compile(r"(?<!\w)[\u2012\u2013\u2014](?=[\d.])")
SENTENCE_ENDS = ".,;:!?\u3002\uff01\uff0c\uff1b\uff1f\u060c\u061f\u06d4\u0964"
QUOTES = (
    *((mark, mark) for mark in ("**", "__", "*", "`", '"', "'")),
    *(("\u2018", "\u2019"), ("\u201c", "\u201d"), ("\u201e", "\u201c"), ("\u201e", "\u201d")),
    *(("«", "»"), ("»", "«"), ("\u2039", "\u203a"), ("「", "」"), ("『", "』")),
)

GROUPS = "_'\u2019\u00a0\u2009\u202f"
NUMBER = re.compile(
    rf"""(?<![\w.])(?<!\d,)(?P<sign>[-+]?)(?:
    (?P<comma>[1-9]\d{{0,2}}(?:,\d{{2,3}})*,\d{{3}}(?:\.\d+)?)(?![.,]?\d)
    |(?P<point>[1-9]\d{{0,2}}(?:\.\d{{3}})+(?:,\d+|\.\d{{3}}))(?![.,]?\d)
    |(?P<group>[1-9]\d{{0,2}}(?:[{GROUPS}]\d{{3}})+(?:[.,]\d+)?)(?![.,]?\d)
    |(?P<decimal>\d+,\d+)(?![.,]?\d)
    |(?P<plain>\d+(?:\.\d+)?|\.\d+)(?![.,]?\d)
    )(?P<exponent>[eE][-+]?\d{{1,4}}(?!\d))?(?![eE][-+]?\d)""",
    re.X,
)
UNITS = "$€£¥₹₩₽%‰"
ARABIC_SIGNS = str.maketrans({"\u066b": ".", "\u066c": ","})
"""The decimal and thousands signs that go with Arabic digits."""
SPACED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?![\d ]|[.,]?\d{4})")
SIGNIFICANT_DIGITS = 12
"""Fractions that agree in so many digits are the same in a vote: 0.1 + 0.2 and 0.3."""


def visible(text: str) -> str:
    """`text` in one Unicode form and without what nobody sees; case and marks stay."""
    if text.isascii():
        return " ".join(text.split())
    alike = "".join(
        unicodedata.normalize("NFKC", letter)
        if unicodedata.decomposition(letter).startswith(SHOWN_ALIKE)
        else letter
        for letter in unicodedata.normalize("NFC", text.translate(IGNORED))
    )
    alike = unicodedata.normalize("NFC", alike).translate(HYPHENS)
    return DASH_AS_SIGN.sub("-", " ".join(alike.split()))


def folded(text: str) -> str:
    """`visible(text)` without case; a dotted capital İ is an i."""
    plain = visible(text)
    return plain.lower() if plain.isascii() else plain.casefold().replace("i\u0307", "i")


def normalized(text: str) -> str:
    """`text` as texts are compared. A text of nothing but punctuation stays as it is."""
    *_, bare = unwrapped(folded(text))
    return bare


def unwrapped(text: str, wrappers: Sequence[tuple[str, str]] = QUOTES) -> Iterator[str]:
    """`text`, and what is left of it as one wrapper or sentence end after the other comes off.

    A wrapper comes off where it stands on both sides. Nothing is left empty.
    """
    yield text
    while (shorter := _one_less(text, wrappers)) != text:
        text = shorter
        yield text


def _one_less(text: str, wrappers: Sequence[tuple[str, str]]) -> str:
    for left, right in wrappers:
        if text.startswith(left) and text.endswith(right):
            inside = text[len(left) : -len(right)]
            if len(text) > len(left) + len(right) and inside.strip() and left not in inside:
                return inside.strip()
    ends_in_one = text[-1:] in SENTENCE_ENDS and text.rstrip(SENTENCE_ENDS).rstrip()
    return text[:-1].rstrip() if ends_in_one else text


def _number_as_label(text: str) -> str:
    """Equal for labels that are the same number; a text that is no number is only itself."""
    number = number_of(text)
    if number is None or number.is_code:
        return f"text {text}"
    return f"{number.unit} {number_key(number.value)}"


SEPARATOR = re.compile(r"(?<=[^\W_])(?:[\s_]+|[\s_]*-[\s_]*(?!\d))(?=[^\W_])")


def _words_as_label(text: str) -> str:
    """ "not_spam", "Not-spam" and "not spam" alike."""
    return SEPARATOR.sub(" ", normalized(text))


def _dotless_as_label(text: str) -> str:
    """A capital I may be that of an i without a dot."""
    return normalized(text).replace("ı", "i")  # noqa: RUF001


TIERS: tuple[Callable[[str], str], ...] = (
    str, visible, folded, normalized, _number_as_label, _words_as_label, _dotless_as_label,
)  # fmt: skip
"""How a text may differ from a label that it is taken for, the least difference first."""


class LabelSet:
    """A closed set of labels, and finding the one that a text is.

    A text is the label that it equals by the first of `TIERS` under which it equals any. Where
    that are several it is none: of "US" and "us", "Us" is neither.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = tuple(dict.fromkeys(labels))
        self._tables: list[dict[str, list[str]]] = []
        for key in TIERS:
            table: dict[str, list[str]] = {}
            for label in self.labels:
                table.setdefault(key(label), []).append(label)
            self._tables.append(table)

    def find(self, text: str) -> str | None:
        """The label that `text` is, None if it is none."""
        for key, table in zip(TIERS, self._tables, strict=True):
            found = table.get(key(text), [])
            if found:
                return found[0] if len(found) == 1 else None
        return None


@lru_cache(maxsize=32)
def label_set(labels: tuple[str, ...]) -> LabelSet:
    return LabelSet(labels)


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text. `digits` is as written, `unit` a currency or percent sign, or ""."""

    value: Decimal
    digits: str
    unit: str = ""

    @property
    def is_code(self) -> bool:
        """Whether a 0 leads that no number needs."""
        return re.match(r"[-+]?0\d", self.digits) is not None


def numbers_in(text: str) -> Iterator[Number]:
    """The finite numbers in `text`, in order."""
    text = text.translate(HYPHENS | ARABIC_SIGNS)
    for found in NUMBER.finditer(text):
        number = Number(_decimal(found), found[0], _unit_beside(text, found))
        if isfinite(float(number.value)):
            yield number


def number_of(text: str) -> Number | None:
    """The number that `text` is, and nothing else but a currency or percent sign."""
    plain = visible(text).translate(ARABIC_SIGNS).rstrip(".").rstrip()
    plain = SPACED.sub(lambda found: found[0].replace(" ", ""), plain)
    bare = re.sub(rf"^([-+]?)\s*[{UNITS}]\s*|\s*[{UNITS}]$", r"\1", plain)
    found = NUMBER.fullmatch(bare)
    if found is None or not isfinite(float(_decimal(found))):
        return None
    units = [letter for letter in plain if letter in UNITS]
    return Number(_decimal(found), found[0], units[0] if units else "")


def _decimal(found: re.Match[str]) -> Decimal:
    kind = next(name for name in ("comma", "point", "group", "decimal", "plain") if found[name])
    digits = found[kind]
    if kind == "comma":
        digits = digits.replace(",", "")
    elif kind == "point":
        digits = digits.replace(".", "")
    digits = re.sub(f"[{GROUPS}]", "", digits).replace(",", ".")
    return Decimal(f"{found['sign']}{digits}{found['exponent'] or ''}")


def _unit_beside(text: str, found: re.Match[str]) -> str:
    before, after = text[: found.start()].rstrip()[-1:], text[found.end() :].lstrip()[:1]
    return next((sign for sign in (before, after) if sign and sign in UNITS), "")


def same_number(found: Number, wanted: Number, tolerance: float) -> bool:
    """Whether two numbers of texts are equal; codes are compared as written."""
    if found.unit and wanted.unit and found.unit != wanted.unit:
        return False
    if found.is_code or wanted.is_code:
        return found.digits == wanted.digits
    return is_near(found.value, wanted.value, tolerance)


def is_near(
    found: float | Decimal, wanted: float | Decimal, tolerance: float
) -> bool:  # int is a float to the type checker
    """Whether `found` is `wanted`, or a fraction within the tolerance of it.

    The tolerance is relative to `wanted`, and absolute where that is 0. Two whole numbers are
    equal or they are not. A fraction may stand for a whole number only as long as the tolerance
    does not reach the next one.
    """
    if found == wanted or (found != found and wanted != wanted):
        return True
    one, other = Decimal(str(found)), Decimal(str(wanted))
    if not (one.is_finite() and other.is_finite()):
        return False
    allowed = Decimal(str(tolerance)) * (abs(other) or 1)
    if _is_whole(other) and (_is_whole(one) or allowed > 1):
        return one == other
    return abs(one - other) <= allowed


def _is_whole(value: Decimal) -> bool:
    return value == value.to_integral_value()


def number_key(value: float | Decimal) -> str:
    """Equal for equal numbers, whatever their type and spelling."""
    exact = Decimal(str(value))
    if exact.is_finite() and _is_whole(exact):
        return str(int(exact))
    return f"{float(exact):.{SIGNIFICANT_DIGITS}g}"


def same_text(a: str, b: str) -> bool:
    """Whether two answers that are no JSON objects or lists are the same number or text."""
    one, other = number_of(a), number_of(b)
    if one is not None and other is not None:
        return same_number(one, other, 10.0**-SIGNIFICANT_DIGITS)
    return normalized(a) == normalized(b)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_value(text: str, otherwise: Any) -> Any:
    """The JSON value that `text` is, `otherwise` where it is none that can be compared."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return otherwise
    return value if _is_shallow(value) else otherwise


def structure_of(text: str) -> Any:
    """The JSON object or list that `text` is, else `text` itself."""
    value = as_value(text, otherwise=text)
    return value if isinstance(value, dict | list) else text


DEEPEST = 100
"""Levels of a JSON value that are compared; one nested deeper is taken for a text."""


def _is_shallow(value: Any, left: int = DEEPEST) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left > 0 and all(_is_shallow(item, left - 1) for item in items)


def value_key(value: Any, schema: Schema | None = None, root: Schema | None = None) -> str:
    """Equal for JSON values that are the same. `root` holds the definitions of `schema`."""
    root = root or schema
    if isinstance(value, dict):
        keys = {
            name: value_key(item, field_schema(schema, name, root), root)
            for name, item in value.items()
            if item is not None
        }
        return "object " + json.dumps(keys, sort_keys=True)
    if isinstance(value, list):
        each = items_schema(schema, root)
        items = [value_key(item, each, root) for item in value]
        return "list " + json.dumps(sorted(items) if is_unordered(schema, root) else items)
    if isinstance(value, str):
        return f"text {normalized(value)}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"number {number_key(value)}"


def forms_of(schema: Schema | None, root: Schema | None) -> Iterator[Schema]:
    """`schema` and all that it refers to or is one of (`$ref`, `anyOf`, `oneOf`, `allOf`)."""
    waiting, seen = [schema], list[int]()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, Mapping) or id(one) in seen:
            continue
        seen.append(id(one))
        yield one
        for several in ("anyOf", "oneOf", "allOf"):
            waiting += one.get(several, [])
        reference = one.get("$ref", "")
        if root is not None and reference.startswith("#/$defs/"):
            waiting.append(root.get("$defs", {}).get(reference.removeprefix("#/$defs/")))


def field_schema(schema: Schema | None, name: str, root: Schema | None) -> Schema | None:
    for form in forms_of(schema, root):
        for found in (form.get("properties", {}).get(name), form.get("additionalProperties")):
            if isinstance(found, Mapping):
                return found
    return None


def items_schema(schema: Schema | None, root: Schema | None) -> Schema | None:
    found = (form.get("items") for form in forms_of(schema, root))
    return next((each for each in found if isinstance(each, Mapping)), None)


def is_unordered(schema: Schema | None, root: Schema | None) -> bool:
    """Whether the order of a list of this schema means nothing."""
    return any(
        form.get("uniqueItems") is True or form.get("unordered") is True
        for form in forms_of(schema, root)
    )


MISSING: Any = object()
"""Stands in a list of `arranged` where the value lacks an item."""


def arranged(value: Any, like: Any, schema: Schema | None, root: Schema | None = None) -> Any:
    """`value` with its lists without order in the order of `like`.

    What `like` doesn't have takes the places that are left, and then stands at the end.
    """
    root = root or schema
    if isinstance(value, dict) and isinstance(like, dict):
        return {
            name: arranged(item, like.get(name), field_schema(schema, name, root), root)
            for name, item in value.items()
        }
    if not (isinstance(value, list) and isinstance(like, list)):
        return value
    each = items_schema(schema, root)
    if is_unordered(schema, root):
        value = _in_order_of(value, like, each, root)
    return [
        arranged(item, like[at], each, root) if at < len(like) else item
        for at, item in enumerate(value)
    ]


def _in_order_of(value: Sequence[Any], like: Sequence[Any], each: Schema | None, root: Any) -> Any:
    left = [(value_key(item, each, root), item) for item in value]
    placed: list[Any] = []
    for wanted in like:
        key = value_key(wanted, each, root)
        at = next((n for n, (own, _) in enumerate(left) if own == key), None)
        placed.append(MISSING if at is None else left.pop(at)[1])
    rest = [item for _, item in left]
    filled = [rest.pop(0) if item is MISSING and rest else item for item in placed]
    return [*filled, *rest]
