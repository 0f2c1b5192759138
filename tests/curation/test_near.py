"""Near-duplicate lookup: exact at the threshold, few misses, no false match, growth."""

from __future__ import annotations

import random

from nanodistill.curation.minhash import NearIndex, jaccard, shingles_of

WORDS = [f"word{n}" for n in range(500)]


def sentence(dice: random.Random, n: int = 24) -> list[str]:
    return dice.sample(WORDS, n)


def changed(words: list[str], at: int, dice: random.Random) -> str:
    return " ".join([*words[:at], dice.choice(WORDS) + "x", *words[at + 1 :]])


def test_case_punctuation_and_width_do_not_count() -> None:
    index = NearIndex(1.0)
    index.add("Where is my package? Order #12")
    assert index.nearest("where is my PACKAGE order 12!") == (0, 1.0)


def test_a_pair_is_found_at_the_threshold_and_not_under_it() -> None:
    a, b = "one two three four five six", "one two three four five seven"
    similarity = jaccard(shingles_of(a), shingles_of(b))
    for threshold, found in [(similarity, True), (similarity + 0.001, False)]:
        index = NearIndex(threshold)
        index.add(a)
        assert (index.nearest(b) is not None) is found


def test_one_word_changed_in_24_is_found_among_thousands_of_others() -> None:
    dice = random.Random(1)
    index = NearIndex(0.8)
    texts = [sentence(dice) for _ in range(4000)]
    numbers = [index.add(" ".join(words)) for words in texts]
    assert numbers == list(range(4000))
    near = [index.nearest(changed(words, n % 24, dice)) for n, words in enumerate(texts)]
    found = [n for n, match in enumerate(near) if match is not None and match[0] == n]
    assert len(found) >= 3998
    assert not any(index.nearest(" ".join(sentence(dice))) for _ in range(1000))


def test_of_equals_the_first_is_named() -> None:
    index = NearIndex(0.8)
    for text in ["something else entirely", "the same words here", "the same words here"]:
        index.add(text)
    assert index.nearest("the same words here") == (1, 1.0)


def test_scripts_without_spaces_are_compared_by_character() -> None:
    index = NearIndex(0.6)
    index.add("私の荷物はどこにありますか今日届くはずです")
    assert index.nearest("私の荷物はどこですか今日届くはずです") is not None
    assert index.nearest("請求書の宛名を変更してください") is None


def test_texts_without_words_match_nothing() -> None:
    index = NearIndex(0.8)
    index.add("?!")
    assert index.nearest("?!") is None
