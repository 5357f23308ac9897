"""The corpus, the tokenizer and the tokens that the tests of training use too."""

from tests.data.fixtures import corpus, plays, tokenizer, tokens

__all__ = ["corpus", "plays", "tokenizer", "tokens"]
