"""Values: what rewards an answer, the agents that each speak for one value, and the aggregator that hears them."""
