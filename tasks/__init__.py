"""What runs: one module per kind of operation, the internal jobs, and `enqueue`, which a CRM calls."""
