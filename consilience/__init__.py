"""Methods for a weighted, honest consensus over language models' moral judgements. Never imports Ray."""
