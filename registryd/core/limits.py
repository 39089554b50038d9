"""How much is too much: each bound on what may be sent and kept, declared once.

Flags, environment names, checks and the README's table are made from these declarations.
"""

from dataclasses import dataclass, field


def _limit(default: int, of: str, *, least: int = 1) -> int:
    number: int = field(default=default, metadata={"help": of, "least": least})
    return number


@dataclass(frozen=True)
class Limits:
    """Each field is a setting: `body_bytes` is the flag `--max-body-bytes` and REGISTRYD_MAX_BODY_BYTES."""

    body_bytes: int = _limit(256 * 1024, "bytes in the body of a request")
    header_bytes: int = _limit(16 * 1024, "bytes in the header block of a request")
    url_bytes: int = _limit(8 * 1024, "bytes in the URL of a request")
    service_name_length: int = _limit(128, "characters in a service_name")
    instance_id_length: int = _limit(128, "characters in an instance_id")
    base_url_length: int = _limit(2048, "characters in a base_url")
    ttl_seconds: int = _limit(86400, "seconds in a ttl")
    metadata_pairs: int = _limit(64, "pairs in metadata")
    metadata_bytes: int = _limit(
        1024 * 1024 * 1024, "bytes of memory for the metadata, tags and long URLs of all instances"
    )
    metadata_key_length: int = _limit(128, "characters in a key of metadata")
    metadata_value_length: int = _limit(1024, "characters in a value of metadata")
    tags: int = _limit(64, "tags of an instance")
    tag_length: int = _limit(128, "characters in a tag")
    version_length: int = _limit(64, "characters in a version")
    zone_length: int = _limit(64, "characters in a zone")
    weight: int = _limit(65535, "weight of an instance")
    reason_length: int = _limit(256, "characters in the reason of an override")
    override_seconds: int = _limit(31_536_000, "seconds for which an override is laid")
    heartbeat_ids: int = _limit(10_000, "instance_ids in one POST /heartbeats")
    connections: int = _limit(50_000, "connections at a time; more are answered with a 503")
    connections_per_address: int = _limit(
        10_000, "connections of one address (an IPv6 /64); for each that comes then an idle one is closed"
    )
    requests_per_address: int = _limit(
        0,
        "requests a second of one address (an IPv6 /64), 0: any number; more get a 429, but for heartbeats",
        least=0,
    )
    waiting_bytes: int = _limit(
        512 * 1024 * 1024, "bytes in all that wait for clients who do not read, or are slow to send"
    )
    watchers: int = _limit(20_000, "watchers, and readers who wait")
    instances: int = _limit(2_000_000, "instances in all")
    instances_per_service: int = _limit(100_000, "instances of one service")


def flag_of(limit: str) -> str:
    """The flag that sets a limit: `body_bytes` -> `--max-body-bytes`."""
    return "--max-" + limit.replace("_", "-")
