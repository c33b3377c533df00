"""Fuzzing: random input at every place where bytes of strangers come in. Run by `make fuzz`."""
