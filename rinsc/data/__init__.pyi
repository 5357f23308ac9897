"""The names of corpora and tokenizers for programs, and where each is from."""

from rinsc.data.batches import TrainingWindows as TrainingWindows
from rinsc.data.cache import prepare as prepare
from rinsc.data.corpora import open_corpus as open_corpus
from rinsc.data.corpora import training_texts as training_texts
from rinsc.data.tokenizer import load_tokenizer as load_tokenizer
from rinsc.data.tokenizer import train_tokenizer as train_tokenizer

__all__: list[str]
