"""Addresses to which no notice goes: link-local ones, and the metadata services of clouds, which hand out credentials.

Whoever can set a URL, or the name in it, could otherwise make a worker call them. Private addresses are allowed,
because CRMs live there. https://www.rfc-editor.org/rfc/rfc3927, https://www.rfc-editor.org/rfc/rfc4291#section-2.5.6
"""

import ipaddress

_NETWORKS = [
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # IPv4 link-local; 169.254.169.254 and others are metadata services
        "fe80::/10",  # IPv6 link-local
        "fd00:ec2::254/128",  # the metadata service of AWS over IPv6
        "fd20:ce::254/128",  # that of Google Cloud
        "100.100.100.200/32",  # that of Alibaba Cloud
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # https://www.rfc-editor.org/rfc/rfc6052#section-2.1


def is_refused_address(text: str) -> bool:
    """Return whether a text is an address to which no notice goes, also in IPv6's forms of IPv4. False for a name."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return False
    meant = [address]
    if isinstance(address, ipaddress.IPv6Address):
        low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        is_compatible = int(address) >> 32 == 0  # ::a.b.c.d, https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.1
        meant += [one for one in (address.ipv4_mapped, address.sixtofour) if one]
        meant += [low] if address in _NAT64 or is_compatible else []
    return any(one in network for one in meant for network in _NETWORKS)
