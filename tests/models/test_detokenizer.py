"""Text from tokens, and up to a stop, however both are cut."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from nanodistill.models.batching import StopSequenceFilter, StreamingDetokenizer


class Bytes:
    """A tokenizer whose tokens are bytes; 256 is a special token."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


class Words:
    """A tokenizer that writes no space before the first word of a text, as SentencePiece's do."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return " ".join("abc"[i] for i in ids)


@given(st.text(), st.integers(0, 5))
def test_pieces_make_up_the_text(text: str, specials: int) -> None:
    tokens = [*text.encode(), *[256] * specials]
    decoder = StreamingDetokenizer(Bytes())
    pieces = [decoder.add(token) for token in tokens]
    pieces.append(decoder.rest())
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_half_a_character_is_kept_back_until_the_end() -> None:
    decoder = StreamingDetokenizer(Bytes())
    first, second, _ = "é!".encode()
    assert decoder.add(ord("a")) == "a"
    assert decoder.add(first) == ""
    assert decoder.add(second) == "é"
    assert decoder.add(first) == ""
    assert decoder.rest() == "\ufffd"


def test_a_tokens_text_may_depend_on_its_place() -> None:
    decoder = StreamingDetokenizer(Words())
    assert [decoder.add(token) for token in (0, 1, 2)] == ["a", " b", " c"]


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=8),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
@example(["aa", "b"], ["aab"])
@example(["a", "a", "b"], ["ab"])
def test_text_ends_at_the_first_stop_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    until = StopSequenceFilter(stops)
    out = []
    for piece in pieces:
        out.append(until.add(piece))
        if until.stopped:
            break
    else:
        out.append(until.rest())
    whole = "".join(pieces)
    # A stop is found as soon as it is whole, and of several that are then, the one that begins
    # first counts.
    seen = next(
        (
            "".join(pieces[: n + 1])
            for n in range(len(pieces))
            if any(stop in "".join(pieces[: n + 1]) for stop in stops)
        ),
        None,
    )
    if seen is None:
        assert not until.stopped
        assert "".join(out) == whole
    else:
        assert until.stopped
        assert "".join(out) == seen[: min(seen.find(s) for s in stops if s in seen)]


def test_what_cannot_become_a_stop_is_not_kept_back() -> None:
    until = StopSequenceFilter(("</answer>",))
    assert until.add("a < b </ans") == "a < b "
    assert until.add("x") == "</ansx"
