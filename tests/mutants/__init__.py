"""Mutants: small faults put into copies of the code. A mutant that no test notices shows what the tests do not hold."""
