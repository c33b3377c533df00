"""A local B2COPY with a switch for everything the documentation leaves open, and the processes around it.

The demo and the tests run on it. Nothing here is imported by a production worker; aiohttp comes with the extra
`[sandbox]`.
"""
