"""Ray actors: who hosts a model or a shard. They move data, hold state and recover; formulas live in `consilience`."""
