"""Only tokens that a grammar allows are drawn.

llguidance keeps the state of the grammar and says for each token of the
vocabulary whether it may come next; the logits of the others become minus
infinity before anything is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nanodistill.serve.schema import BadSchema, Grammar, grammar_for

if TYPE_CHECKING:
    import mlx.core as mx
    from llguidance import LLMatcher

    from nanodistill.models.loading import LoadedModel
    from nanodistill.thinking import Format


COMPILING = "failed to compile JSON schema: "


class GrammarLost(RuntimeError):
    """A grammar that became too large while it was followed, or leads to no answer."""

    def __init__(self, said: str) -> None:
        super().__init__((said.strip().splitlines() or ["no answer is possible"])[0])


class Constraint:
    """A logits processor for one request."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._seen: int | None = None

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        import mlx.core as mx
        import numpy as np

        if self._seen is not None:
            drawn: Any = tokens[self._seen :].tolist()
            for token in drawn:
                if not self._matcher.consume_token(token):
                    raise GrammarLost(self._matcher.get_error())
        self._seen = len(tokens)
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise GrammarLost(self._matcher.get_error())
        allowed = np.zeros(logits.shape[-1], dtype=bool)
        known = np.unpackbits(bits, bitorder="little")[: len(allowed)]
        allowed[: len(known)] = known
        return mx.where(mx.array(allowed), logits, -mx.inf)


class Grammars:
    """Makes constraints for one model; its tokenizer is read once."""

    def __init__(self, loaded: LoadedModel) -> None:
        from llguidance.hf import from_tokenizer

        wrapped: Any = loaded.tokenizer
        self.tokenizer = from_tokenizer(
            wrapped._tokenizer, eos_token=sorted(loaded.tokenizer.eos_token_ids)
        )

    def grammar(self, schema: Mapping[str, Any], form: Format) -> Grammar | None:
        """The grammar of a schema, as much of it as can be said; None if answers are to be
        checked alone.

        Raises:
            BadSchema: no answer can be of it, or it is too large.
        """
        strict = grammar_for(schema, form, lenient=False)
        if strict is None:
            return None
        if not self._refusal(strict):
            return Grammar(strict, complete=True)
        lenient = grammar_for(schema, form, lenient=True)
        refusal = self._refusal(lenient) if lenient else None
        if lenient is None or refusal:
            raise BadSchema(f"the schema can't be honoured: {refusal}")
        return Grammar(lenient, complete=False)

    def constraint(self, grammar: Grammar) -> Constraint:
        from llguidance import LLMatcher

        return Constraint(LLMatcher(self.tokenizer, grammar.text, log_level=0))

    def _refusal(self, grammar: str) -> str:
        """Why a grammar can't be used, in a line; empty if it can."""
        from llguidance import LLMatcher

        said = LLMatcher.validate_grammar(grammar, self.tokenizer)
        why = said.partition(COMPILING)[2] or said
        return " ".join(re.split(r"\n\s*\d+ \|", why)[0].split())
