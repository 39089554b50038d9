"""What each field that anyone can send must be: one declaration for the check, for the words of a refusal, and (as
JSON Schema, which msgspec makes from it) for descriptions of the interface.
"""

from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from registryd.core.errors import ECHO, InvalidInput
from registryd.core.limits import Limits, flag_of
from registryd.core.model import BASE_URL, ReportedStatus

S = TypeVar("S", bound=Struct)

# \Z and not $: the latter also matches before a newline at the end.
_SERVICE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"
# Not "." and "..": every URL library takes them out of a path, so nobody could send a heartbeat for them.
_INSTANCE_ID = r'^(?!\.{1,2}\Z)((?![/?#%"\\])[!-~])+\Z'
_STATUS = "(up|starting|down|draining|maintenance)"
_STATUSES = rf"^(any|{_STATUS}(,{_STATUS})*)\Z"


class Rule(NamedTuple):
    """What a field must be: as a type for msgspec, and in words that go on from "send "."""

    type: Any
    words: str


class Rulebook:
    """The rules under given limits."""

    def __init__(self, limits: Limits) -> None:
        self._rules = _rules(limits)

    def words(self, field: str) -> str:
        """What to send for this field, for people; empty for a field that has no rule."""
        rule = self._rules.get(field)
        return rule.words if rule else ""

    def check(self, field: str, value: str) -> None:
        """Raises InvalidInput unless `value` (a part of a path, say) is a good one for this field."""
        rule = self._rules[field]
        try:
            msgspec.convert(value, rule.type)
        except msgspec.ValidationError:
            raise InvalidInput(field, f"{field} {value[:ECHO]!r} is not allowed; send {rule.words}") from None

    def schema(self, field: str) -> dict[str, Any]:
        """The rule of a field as JSON Schema."""
        return msgspec.json.schema(self._rules[field].type)

    def constrain(self, struct: type[S], *, null: bool) -> type[S]:
        """A subclass of `struct` whose fields take only what the rules allow; with `null`, also None for what need not
        be given. (In a query there is no null: read leniently, "null" would pass for one.)"""
        fields: list[Any] = []
        for part in msgspec.structs.fields(struct):
            rule = self._rules[part.name]
            if part.required:
                fields.append((part.name, rule.type, msgspec.field(name=part.encode_name)))
            elif part.default is None and null:
                fields.append((part.name, rule.type | None, msgspec.field(name=part.encode_name, default=None)))
            else:
                fields.append((part.name, rule.type, msgspec.field(name=part.encode_name, default=part.default)))
        narrowed = msgspec.defstruct(
            struct.__name__, fields, bases=(struct,), frozen=True, kw_only=True, forbid_unknown_fields=True
        )
        return cast("type[S]", narrowed)


def _rules(limits: Limits) -> dict[str, Rule]:
    return {
        "service_name": _text(
            limits, "service_name_length", "of A-Z a-z 0-9 . _ -, first a letter or digit", _SERVICE_NAME
        ),
        "instance_id": _text(
            limits, "instance_id_length", 'printable ASCII characters, none of space / ? # % " \\', _INSTANCE_ID
        ),
        "base_url": Rule(
            Annotated[
                str,
                Meta(min_length=1, max_length=limits.base_url_length, extra_json_schema={"pattern": BASE_URL}),
            ],
            f"an absolute URL of up to {limits.base_url_length} characters, like http://10.0.0.5:8000 "
            f"({flag_of('base_url_length')})",
        ),
        "version": _text(limits, "version_length", "characters"),
        "zone": _text(limits, "zone_length", "characters"),
        "ttl": _number(limits, float, "ttl_seconds", 1, "a number of seconds"),
        "weight": _number(limits, int, "weight", 0, "an integer"),
        "status": Rule(ReportedStatus, "up, starting or down"),
        "metadata": _metadata(limits),
        "tags": _tags(limits),
        "generation": Rule(Annotated[int, Meta(ge=1, lt=2**53)], "a positive integer"),
        "reason": _text(limits, "reason_length", "characters"),
        "seconds": _number(limits, float, "override_seconds", 0.001, "a number of seconds"),
        "instance_ids": Rule(
            Annotated[list[str], Meta(max_length=limits.heartbeat_ids)],
            f"an array of up to {limits.heartbeat_ids} strings ({flag_of('heartbeat_ids')})",
        ),
        "ids": Rule(
            tuple[Annotated[str, Meta(min_length=1, max_length=limits.instance_id_length)], ...],
            f"ids of instances, 1 to {limits.instance_id_length} characters each ({flag_of('instance_id_length')})",
        ),
        "statuses": Rule(
            Annotated[str, Meta(pattern=_STATUSES)], "any, or a list of up, starting, down, draining, maintenance"
        ),
        "tag": _tags(limits),
        "services": Rule(tuple[Annotated[str, Meta(pattern=_SERVICE_NAME)], ...], "names of services"),
        "near": _text(limits, "zone_length", "characters"),
        "meta": _metadata(limits),
        "limit": Rule(Annotated[int, Meta(ge=1, lt=2**53)], "a positive integer"),
        "pick": Rule(Literal[1], "1"),
        "index": Rule(Annotated[int, Meta(ge=0, lt=2**53)], "the Registry-Index of an earlier answer, an integer"),
        "least": Rule(Annotated[int, Meta(ge=0, lt=2**53)], "an integer from 0 on"),
        "wait": Rule(
            Annotated[str, Meta(max_length=64)],
            "a time of up to 10m, like 30s, 1m30s, 500ms or plain seconds",
        ),
    }


def _text(limits: Limits, limit: str, what: str, pattern: str | None = None) -> Rule:
    least, most = (1 if pattern else 0), getattr(limits, limit)
    meta = Meta(min_length=least, max_length=most, pattern=pattern)
    return Rule(Annotated[str, meta], f"{least} to {most} {what} ({flag_of(limit)})")


def _number(limits: Limits, kind: type, limit: str, least: float, what: str) -> Rule:
    most = getattr(limits, limit)
    return Rule(Annotated[kind, Meta(ge=least, le=most)], f"{what} from {least} to {most} ({flag_of(limit)})")


def _metadata(limits: Limits) -> Rule:
    key: Any = Annotated[str, Meta(max_length=limits.metadata_key_length)]
    value: Any = Annotated[str, Meta(max_length=limits.metadata_value_length)]
    flags = ", ".join(map(flag_of, ("metadata_pairs", "metadata_key_length", "metadata_value_length")))
    return Rule(
        Annotated[dict[key, value], Meta(max_length=limits.metadata_pairs)],
        f"an object of up to {limits.metadata_pairs} strings, keys of up to {limits.metadata_key_length} and values "
        f"of up to {limits.metadata_value_length} characters ({flags})",
    )


def _tags(limits: Limits) -> Rule:
    tag: Any = Annotated[str, Meta(min_length=1, max_length=limits.tag_length)]
    return Rule(
        Annotated[tuple[tag, ...], Meta(max_length=limits.tags)],
        f"an array of up to {limits.tags} strings of 1 to {limits.tag_length} characters "
        f"({flag_of('tags')}, {flag_of('tag_length')})",
    )
