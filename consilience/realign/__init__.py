"""Theory tokens: what pulls a model back to the consensus under one theory, and how that is trained and judged."""
