"""The fixture `b2copy` for the tests of a CRM."""
