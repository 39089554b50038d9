"""`GET /openapi.json`: the OpenAPI 3.1 description of all calls, made from the declarations that check what is sent
and from the shapes that are answered.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

from registryd import __version__
from registryd.api import render
from registryd.api.base import ANSWERED, Declared, Handler, Routes, call, path_parameters, template
from registryd.api.context import Context
from registryd.api.problems import CONTENT_TYPE, PHRASES
from registryd.api.reader import Nothing, Reader
from registryd.api.shapes import ProblemShape, SnapshotShape
from registryd.core.rules import Rulebook

_REF = "#/components/schemas/{name}"
#: What any call may answer, whatever else it does.
_ALWAYS = (400, 405, 414, 429, 431, 500, 503)
_DESCRIPTION = (
    "Services register when they start, send heartbeats, and look each other up. Every read carries Registry-Index, "
    "the number of the last change to what it shows. Errors are problem details (RFC 9457) with a stable `code`."
)


def describe(routes: Routes, reader: Reader) -> dict[str, Any]:
    """The document for these routes."""
    paths: dict[str, Any] = {}
    shapes: list[type[Struct]] = [ProblemShape, SnapshotShape]
    for pattern, handler, _ in routes:
        for verb in ("get", "head", "post", "delete"):
            method = getattr(handler, verb)
            declared: Declared | None = getattr(method, "declared", None)
            if declared is None:
                continue
            if (shape := _shape_of(declared.answer)) is not None:
                shapes.append(shape)
            names = path_parameters(method)
            path = template(pattern, names)
            paths.setdefault(path, {})[verb] = _operation(path, verb, method, declared, names, reader)
    _link(paths)
    _, components = msgspec.json.schema_components(list(dict.fromkeys(shapes)), ref_template=_REF)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "registryd", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
    described: dict[str, Any] = _with_ecma_patterns(document)
    return described


def _link(paths: dict[str, Any]) -> None:
    """Says that the id which a registration answers is what the other calls about an instance take."""
    links = {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {"instance_id": "$response.body#/instance_id"},
        }
        for path, operations in paths.items()
        for operation in operations.values()
        if "{instance_id}" in path
    }
    paths["/register"]["post"]["responses"]["200"]["links"] = links


def _operation(
    path: str, verb: str, method: Callable[..., Any], declared: Declared, names: list[str], reader: Reader
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{verb}{path}").strip("_"),
        "summary": inspect.getdoc(method),
        "parameters": [*(_in_path(name, reader) for name in names), *_in_query(declared.query, reader)],
        "responses": _responses(verb, declared),
    }
    if declared.needs:
        operation["security"] = [{"token": []}, {}]  # the second: where there is no access control
    if declared.body is not Nothing:
        schema = _schema_of(declared.body, reader)
        operation["requestBody"] = {
            "required": bool(schema.get("required")),
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _in_path(name: str, reader: Reader) -> dict[str, Any]:
    # An id that nobody could register is unknown, and no bad input; a service name is held to its rule.
    schema = reader.rules.schema(name) if name == "service_name" else {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(query: type[Struct], reader: Reader) -> list[dict[str, Any]]:
    """The parameters of a query. `meta.KEY=VALUE` has no form in OpenAPI: it stands in the description."""
    words = {field.encode_name: reader.rules.words(field.name) for field in msgspec.structs.fields(query)}
    properties = _schema_of(query, reader, null=False)["properties"]
    return [
        {"name": name, "in": "query", "schema": schema, "description": words[name]}
        for name, schema in properties.items()
        if name != "meta"
    ]


def _responses(verb: str, declared: Declared) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "done", "content": _content(verb, declared)}}
    if verb in ("get", "head"):
        responses["304"] = {"description": "unchanged since If-None-Match"}
    of_bodies = (413, 415) if verb in ("post", "delete") else ()
    not_for_all = (401, 403, 421) if declared.needs else ()
    problem = {"schema": {"$ref": _REF.format(name=ProblemShape.__name__)}}
    for status in sorted({*_ALWAYS, *of_bodies, *not_for_all, *declared.refusals}):
        content = {} if verb == "head" else {"content": {CONTENT_TYPE: problem}}
        responses[str(status)] = {"description": PHRASES[status], **content}
    return responses


def _content(verb: str, declared: Declared) -> dict[str, Any]:
    if verb == "head":
        return {}
    shape = _shape_of(declared.answer)
    schema: dict[str, Any] = {"type": "string" if declared.answer is None else "object"}
    if shape is not None:
        schema = {"$ref": _REF.format(name=shape.__name__)}
    if get_origin(declared.answer) is list:
        schema = {"type": "array", "items": schema}
    return {declared.media_type: {"schema": schema}}


def _shape_of(answer: Any) -> type[Struct] | None:
    """The shape of an answer, or of each part of one that is an array."""
    (part,) = get_args(answer) or (answer,)
    return part if isinstance(part, type) and issubclass(part, Struct) else None


def _schema_of(struct: type[Struct], reader: Reader, *, null: bool = True) -> dict[str, Any]:
    """The JSON Schema of a query or body, narrowed to the limits, without references."""
    schema = msgspec.json.schema(reader.narrow(struct, null=null), ref_template="#/$defs/{name}")
    defined: dict[str, Any] = schema["$defs"][struct.__name__]
    return defined


def _with_ecma_patterns(value: Any) -> Any:
    """JSON Schema has the regular expressions of JavaScript, in which the very end is $."""
    if isinstance(value, dict):
        return {
            key: part.replace("\\Z", "$") if key == "pattern" else _with_ecma_patterns(part)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_with_ecma_patterns(part) for part in value]
    return value


class OpenapiHandler(Handler):
    """`GET /openapi.json`"""

    def initialize(self, context: Context, document: Callable[[], bytes]) -> None:  # type: ignore[override]
        super().initialize(context)
        self._document = document

    @call(answer=dict)
    def get(self) -> object:
        """Describes all calls."""
        self.set_header("Content-Type", "application/json")
        self.write(self._document())
        return ANSWERED

    head = get


def routes(context: Context, others: Routes) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """The path of this face, for an Application that has `others` too. The document is made when first asked for, and
    again when the limits that are in it have changed."""
    found: list[tuple[str, type[Handler], dict[str, Any]]] = []

    @functools.lru_cache(maxsize=1)
    def document_under(rules: Rulebook) -> bytes:  # noqa: ARG001 - what the reader's other answers depend on
        return render.json_bytes(describe([*others, *found], context.reader))

    def document() -> bytes:
        return document_under(context.reader.rules)

    found.append((r"/openapi.json/?", OpenapiHandler, {"context": context, "document": document}))
    return found
