"""Training at small scale: corpus, tokenizer, batches, trainer, evaluation, curves, sampling.

The model knows nothing of the loop, nor do the data, the metrics and the evaluation; a trainer of
another library can take the place of `rinsc.train.loop` and keep the rest.
"""
