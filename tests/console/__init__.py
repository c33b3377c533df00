"""The operations console: pages, actions, access; a real browser in test_browser.py."""
