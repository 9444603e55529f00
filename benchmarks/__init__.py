"""How fast Fanfare is, beside its peers in the same run: `make bench`. docs/performance.md says how to read it."""
