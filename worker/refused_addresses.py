"""Addresses to which no notice goes: link-local ones, and the metadata services of clouds, which hand out credentials.

Otherwise a person who can set a URL, or the name in it, could make a worker call them. Private addresses are allowed,
because CRMs live there.

The list is closed: it holds the metadata services of AWS, Google Cloud, Azure, Alibaba Cloud and Oracle Cloud. That of
another cloud, at another address than a link-local one, is not refused here; the network of the workers must do that.
https://www.rfc-editor.org/rfc/rfc3927, https://www.rfc-editor.org/rfc/rfc4291#section-2.5.6
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
        "168.63.129.16/32",  # that of Azure's host agent, WireServer
        "192.0.0.192/32",  # that of Oracle Cloud
        "64:ff9b:1::/48",  # NAT64 of a local network, in which any address of IPv4 may stand in several places
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
        meant += address.teredo or ()  # its server and its client, https://www.rfc-editor.org/rfc/rfc4380#section-4
    return any(one in network for one in meant for network in _NETWORKS)
