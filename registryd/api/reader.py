"""Reads what is sent into declared types, or says in a sentence what to send instead."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct

from registryd.core.errors import ECHO, InvalidInput
from registryd.core.limits import Limits
from registryd.core.rules import Rulebook

S = TypeVar("S", bound=Struct)

#: msgspec's words for what is wrong, and the field in which it is.
_COMPLAINT = re.compile(r"(?P<what>.*) - at (?:`key` in )?`\$\.(?P<field>\w+)[^`]*`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`")
_META = "meta."
_UNKNOWN = "Object contains unknown field"
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """The query or body of a call that takes none."""


class Reader:
    """Reads queries and bodies into declared types, narrowed to the limits; each type is prepared once."""

    def __init__(self, limits: Limits) -> None:
        self.take_limits(limits)

    def take_limits(self, limits: Limits) -> None:
        """Reads what comes from now on under these limits."""
        self.limits = limits
        self.rules = Rulebook(limits)
        self._narrowed: dict[type[Struct], type[Struct]] = {}
        self._decoders: dict[type[Struct], msgspec.json.Decoder[Any]] = {}
        #: Each type as it is when nothing is given: they are values.
        self._nothing: dict[type[Struct], Struct] = {}

    def body(self, struct: type[S], raw: bytes) -> S:
        """The body as `struct`; an empty one where nothing is required is as good as `{}`. Raises InvalidInput."""
        if not raw:
            if struct in self._nothing:
                return cast("S", self._nothing[struct])
            if any(field.required for field in msgspec.structs.fields(struct)):
                raise InvalidInput(
                    "body", f"the body is empty; send a JSON object with {_listed(struct)}", "missing_body"
                )
            nothing = msgspec.convert({}, self.narrow(struct))
            self._nothing[struct] = nothing
            return nothing
        decoder = self._decoders.get(struct)
        if decoder is None:
            decoder = self._decoders[struct] = msgspec.json.Decoder(self.narrow(struct))
        try:
            return cast("S", decoder.decode(raw))
        except msgspec.ValidationError as error:
            raise self._refusal(error, struct, raw) from None
        except _NOT_JSON as error:
            raise _not_json(error) from None

    def query(self, struct: type[S], arguments: Mapping[str, Sequence[bytes]]) -> S:
        """The query as `struct`: a field with a tuple may be given several times, and `meta.KEY=VALUE` goes into the
        field `meta`. Raises InvalidInput that names the parameter."""
        if not arguments:
            nothing = self._nothing.get(struct)
            if nothing is None:
                nothing = self._nothing[struct] = msgspec.convert({}, self.narrow(struct, null=False))
            return cast("S", nothing)
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        values: dict[str, Any] = {}
        unknown = []
        for latin, raw in arguments.items():
            bare = latin.encode("latin-1")  # Tornado's names are not decoded
            name = bare.decode("utf-8", "backslashreplace")
            if not all(map(_is_utf8, [bare, *raw])):
                detail = f"{name[:ECHO]} is not in UTF-8; send UTF-8, percent-encoded"
                raise InvalidInput(name[:ECHO], detail, "invalid_parameter")
            given = [text.decode("utf-8") for text in raw]
            if name.startswith(_META) and "meta" in fields:
                values.setdefault("meta", {})[name.removeprefix(_META)] = _one(name, given)
            elif name not in fields or name == "meta":
                unknown.append(name)
            else:
                values[name] = given if fields[name].default == () else _one(name, given)
        if unknown:
            detail = f"this call has no parameter {_quoted(unknown)}; it takes {_listed(struct)}"
            raise InvalidInput(unknown[0][:ECHO], detail, "unknown_parameter")
        try:
            return msgspec.convert(values, self.narrow(struct, null=False), strict=False)
        except msgspec.ValidationError as error:
            complaint = _COMPLAINT.fullmatch(str(error))
            name = complaint["field"] if complaint else "query"
            rule = fields[name].name if name in fields else name
            detail = f"{name} {str(values.get(name, ''))[:ECHO]!r} is not allowed; send {self.rules.words(rule)}"
            raise InvalidInput(name, detail, "invalid_parameter") from None

    def narrow(self, struct: type[S], *, null: bool = True) -> type[S]:
        """A declared type under the limits."""
        narrowed = self._narrowed.get(struct)
        if narrowed is None:
            narrowed = self._narrowed[struct] = self.rules.constrain(struct, null=null)
        return cast("type[S]", narrowed)

    def _refusal(self, error: msgspec.ValidationError, struct: type[Struct], raw: bytes) -> InvalidInput:
        """Msgspec's refusal of a body in our own words, which say what to send."""
        if isinstance(error.__cause__, InvalidInput):  # out of a __post_init__
            return error.__cause__
        text = str(error)
        if text.startswith(_UNKNOWN):
            return _unknown_fields(struct, raw)
        missing = _MISSING.fullmatch(text)
        if missing:
            field = missing["field"]
            return InvalidInput(field, f"{field} is missing; send {self.rules.words(field)}", "missing_field")
        complaint = _COMPLAINT.fullmatch(text)
        if complaint is None:
            return InvalidInput("body", f"{_lowered(text)}; send a JSON object with {_listed(struct)}", "invalid_body")
        field = complaint["field"]
        rule = next((part.name for part in msgspec.structs.fields(struct) if part.encode_name == field), field)
        what = "is not in the form" if "matching regex" in text else _lowered(complaint["what"])
        return InvalidInput(field, f"{field}: {what}; send {self.rules.words(rule)}")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _one(name: str, given: Sequence[str]) -> str:
    if len(given) > 1:
        raise InvalidInput(name[:ECHO], f"{name[:ECHO]} is given {len(given)} times; give it once", "invalid_parameter")
    return given[0]


def _unknown_fields(struct: type[Struct], raw: bytes) -> InvalidInput:
    """Msgspec names the first unknown field and stops there; we name them all."""
    try:
        sent = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except _NOT_JSON as error:
        return _not_json(error)
    unknown = _unknown(sent, struct)
    detail = f"this call has no field {_quoted(unknown)}; it takes {_listed(struct)}"
    return InvalidInput(unknown[0][:ECHO], detail, "unknown_field")


def _not_json(error: Exception) -> InvalidInput:
    return InvalidInput("body", f"the body is not JSON in UTF-8: {_lowered(str(error))}", "invalid_json")


def _unknown(names: Iterable[str], struct: type[Struct]) -> list[str]:
    return [name for name in names if name not in struct.__struct_encode_fields__]


def _listed(struct: type[Struct]) -> str:
    return ", ".join("meta.KEY" if name == "meta" else name for name in struct.__struct_encode_fields__) or "none"


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:ECHO]) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _lowered(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
