"""Text of tokens: decoders, streams, and what a tokenizer's files say."""
