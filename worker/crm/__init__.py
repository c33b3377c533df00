"""The SQL API: a CRM requests operations by a plain INSERT."""
