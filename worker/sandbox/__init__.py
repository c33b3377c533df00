"""A local B2COPY, with a switch for everything that the documentation leaves open.

Demo and tests use it. A production worker imports nothing from here; aiohttp comes with the extra `[sandbox]`.
"""
