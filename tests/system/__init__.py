"""The whole system under fire: real processes, real brokers, real configuration files."""
