"""Fixtures of the tests of data and of training: real text, its tokenizer, its tokens."""

from __future__ import annotations

import pytest

from rinsc.data.batches import TokenizedCorpus, tokenize
from rinsc.data.corpora import load_corpus
from rinsc.data.documents import Corpus, split
from rinsc.data.tokenizer import BytePairTokenizer, train_tokenizer

VOCAB = 307


@pytest.fixture(scope="session")
def plays() -> Corpus:
    return load_corpus("plays")


@pytest.fixture(scope="session")
def corpus(plays: Corpus) -> Corpus:
    """The beginnings of some plays."""
    documents = plays.train[:11]
    return split("some plays", [type(d)(d.name, d.text[:6007]) for d in documents])


@pytest.fixture(scope="session")
def tokenizer(corpus: Corpus) -> BytePairTokenizer:
    return train_tokenizer([document.text for document in corpus.train], VOCAB)


@pytest.fixture(scope="session")
def tokens(corpus: Corpus, tokenizer: BytePairTokenizer) -> TokenizedCorpus:
    return tokenize(corpus, tokenizer)
