"""The description of the interface is made from what checks it, and says no more and no less."""

import re
from typing import Any

import pytest
from conftest import Api
from raw import Served
from tornado.web import Application

from registryd import __version__
from registryd.api.base import Handler
from registryd.api.page import PageHandler


@pytest.fixture
def application(http_server: Served) -> Application:
    return http_server.application


async def the_document(api: Api) -> Any:
    answer = await api.get("/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    return answer.json


def routes(application: Application) -> dict[str, type[Handler]]:
    """Every route's pattern with its handler."""
    (router,) = [rule.target for rule in application.default_router.rules if hasattr(rule.target, "rules")]
    return {rule.matcher.regex.pattern: rule.target for rule in router.rules}


async def test_every_route_and_every_verb_is_described_and_nothing_else(api: Api, application: Application) -> None:
    document = await the_document(api)
    described = {(path, verb) for path, operations in document["paths"].items() for verb in operations}
    there = set()
    for pattern, handler in routes(application).items():
        if issubclass(handler, PageHandler):  # it is for people
            continue
        (path,) = [path for path in document["paths"] if re.fullmatch(pattern, re.sub(r"\{\w+\}", "x", path))]
        for verb in ("get", "head", "post", "put", "patch", "delete"):
            if hasattr(getattr(handler, verb), "declared"):
                there.add((path, verb))

    assert described == there
    assert len(there) > 20


async def test_the_document_says_what_it_is(api: Api) -> None:
    document = await the_document(api)

    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == __version__
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"] for path in document["paths"].values() for operation in path.values())


async def test_every_reference_leads_somewhere_and_every_pattern_is_javascripts(api: Api) -> None:
    text = (await api.get("/openapi.json")).body.decode()
    document = await the_document(api)

    references = set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', text))
    assert references <= document["components"]["schemas"].keys()
    assert {"InstanceShape", "ProblemShape", "ServiceShape"} <= references
    assert "\\\\Z" not in text


async def test_limits_are_in_the_schemas(api: Api) -> None:
    document = await the_document(api)
    register = document["paths"]["/register"]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert register["properties"]["service_name"] == {
        "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
    }  # fmt: skip
    assert register["required"] == ["service_name", "base_url"]
    assert register["additionalProperties"] is False


async def test_parameters_have_their_names_on_the_wire(api: Api) -> None:
    document = await the_document(api)
    parameters = document["paths"]["/services/{service_name}"]["get"]["parameters"]

    assert [parameter["name"] for parameter in parameters] == [
        "service_name", "index", "wait", "status", "tag", "version", "zone", "near", "limit", "pick", "min",
    ]  # fmt: skip
    drain = document["paths"]["/drain/{instance_id}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert list(drain["properties"]) == ["reason", "for"]
