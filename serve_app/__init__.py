"""The service: moral agents, aggregator and judges behind one HTTP interface, on Ray Serve."""
