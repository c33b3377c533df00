"""The CRM's side: operations requested by a plain INSERT, and notices that tell the CRM what became of them."""
