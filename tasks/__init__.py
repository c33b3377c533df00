"""What runs: one module per kind of record. `enqueue` is the CRM's door."""
