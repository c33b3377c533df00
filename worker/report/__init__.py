"""What people and programs are told about operations, the session and health. No terminal in it."""
