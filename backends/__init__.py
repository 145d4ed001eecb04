"""Everything that computes. `types`, `errors` and `base` are the contract; nothing heavy is imported here."""
