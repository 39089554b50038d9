"""What holds for every call: how it refuses, what it says of itself, and that nothing bad changes anything."""

from typing import Any

import pytest
from conftest import Api, ExpectLog, refused
from support import RecordingStore

from registryd.core.limits import Limits
from registryd.registry import Registry

GOOD: dict[str, Any] = {"service_name": "users", "base_url": "http://10.0.0.5:8000"}
GETS = ["/services", "/services/users", "/instances/users-1", "/status", "/livez", "/readyz"]


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        (b"", "missing_body", "the body is empty; send a JSON object with service_name, base_url"),
        (b"nonsense", "invalid_json", "the body is not JSON in UTF-8: JSON is malformed: invalid character (byte 4)"),
        (b"{", "invalid_json", "not JSON"),
        (b'{"service_name": "users", "base_url": "http://h"} x', "invalid_json", "not JSON"),
        (b'{"service_name": NaN}', "invalid_json", "not JSON"),
        (b"service_name=users&base_url=http://h", "invalid_json", "not JSON"),
        (b'{"service_name": "us\xff"}', "invalid_json", "not JSON"),
        (b'{"service_name": "us\xc0\xaf"}', "invalid_json", "not JSON"),
        (b'{"service_name": "\\ud800"}', "invalid_json", "not JSON"),
        (b"\xef\xbb\xbf{}", "invalid_json", "not JSON"),
        (b"\x00", "invalid_json", "not JSON"),
        (b"null", "invalid_body", "expected `object`, got `null`; send a JSON object with service_name"),
        (b"[]", "invalid_body", "got `array`"),
        (b'"users"', "invalid_body", "got `str`"),
        (b"3", "invalid_body", "got `int`"),
        (b"[" * 100_000, "invalid_body", "got `array`"),
        (b'{"service_name":' * 10_000, "invalid_field", "service_name"),
        (b'{"x":' + b"[" * 100_000, "invalid_json", "not JSON"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(api: Api, body: bytes, code: str, detail: str) -> None:
    answer = await api.post("/register", body)

    field = "service_name" if code == "invalid_field" else "body"
    assert detail in refused(answer, 400, code, field)


@pytest.mark.parametrize("field", ["service_name", "base_url"])
async def test_a_missing_field_is_named(api: Api, field: str) -> None:
    body = {name: value for name, value in GOOD.items() if name != field}

    assert refused(await api.post("/register", body), 400, "missing_field", field).startswith(
        f"{field} is missing; send"
    )


async def test_unknown_fields_are_all_named_with_those_there_are(api: Api) -> None:
    answer = await api.post("/register", GOOD | {"sevice_name": "x", "meta": {}, "ttl": 5})

    detail = refused(answer, 400, "unknown_field", "sevice_name")
    assert detail == (
        "this call has no field 'sevice_name', 'meta'; it takes service_name, base_url, instance_id, ttl, status, "
        "metadata, tags, version, zone, weight"
    )


async def test_a_refusal_does_not_repeat_all_that_was_sent(api: Api) -> None:
    many = {"x" * 1000 + str(n): 1 for n in range(200)}
    answer = await api.post("/register", GOOD | many)

    assert len(refused(answer, 400, "unknown_field", "x" * 64)) < 1000
    for path in ("/services/", "/instances/", "/nothing/", "/explain/a/"):
        assert len((await api.get(path + "z" * 5000)).body) < 1000
    answer = await api.get("/status?" + "y" * 5000)
    assert len(refused(answer, 400, "unknown_parameter", "y" * 64)) < 1000


BAD_VALUES: list[tuple[str, list[Any]]] = [
    (
        "service_name",
        ["", "a/b", "..", ".hidden", "-x", "a b", "a\x00", "a\n", "usérs", "用户", "a%2Fb", "x" * 129, 3, None, [], {}],
    ),
    (
        "instance_id",
        ["", "a/b", ".", "..", "a b", "a?b", "a#b", "a%b", 'a"b', "a\\b", "a\0", "a\n", "é", "\x7f", "x" * 129, 3, []],
    ),
    (
        "base_url",
        [
            "", "users", "10.0.0.5:8000", "//h", "http://", "http:///x", "http://u:p@h", "http://a b", "http://h\n",
            "http://h\x00", "http://h/#f", "http://h:99999", "http://h\\x", "http://" + "h" * 2048, 3, None, {},
        ],
    ),
    ("ttl", [0, 0.99, -1, 86400.1, 1e300, "30", True, [], {}]),
    ("status", ["", "UP", "draining", "maintenance", "expired", 1, []]),
    ("metadata", [{"k": 1}, {"k": None}, {"k": {"a": "b"}}, [], "x", {"k" * 129: "v"}, {"k": "v" * 1025}]),
    ("metadata", [{f"k{n}": "v" for n in range(65)}]),
    ("tags", [[""], ["x" * 129], [1], [None], "blue", {}, ["t"] * 65]),
    ("version", ["x" * 65, 1, []]),
    ("zone", ["x" * 65, 1, []]),
    ("weight", [-1, 65536, 1.5, "1", True, []]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD_VALUES for value in values], ids=lambda v: repr(v)[:24]
)
async def test_a_bad_value_is_refused_by_name_with_what_to_send(
    api: Api, store: RecordingStore, field: str, value: object
) -> None:
    detail = refused(await api.post("/register", GOOD | {field: value}), 400, "invalid_field", field)

    assert field in detail
    assert "send " in detail
    assert store.changes == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("service_name", "x" * 128),
        ("service_name", "9.a_b-C"),
        ("instance_id", "x" * 128),
        ("instance_id", "...a"),
        ("base_url", "http://" + "h" * 2041),
        ("ttl", 1),
        ("ttl", 86400),
        ("metadata", {f"{n:0128}": "v" * 1024 for n in range(64)}),
        ("tags", ["t" * 128] * 64),
        ("version", "x" * 64),
        ("weight", 65535),
        ("weight", 0),
    ],
    ids=lambda v: repr(v)[:24],
)
async def test_a_value_at_its_limit_is_taken(api: Api, field: str, value: object) -> None:
    assert (await api.post("/register", GOOD | {field: value})).json[field] == value


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"[]", "invalid_body", "body"),
        (b"{", "invalid_json", "body"),
        ({"status": "draining"}, "invalid_field", "status"),
        ({"weight": -1}, "invalid_field", "weight"),
        ({"metadata": {"a": 1}}, "invalid_field", "metadata"),
        ({"ttl": 5}, "unknown_field", "ttl"),
    ],
)
async def test_a_bad_report_is_refused_and_is_no_heartbeat(
    api: Api, registry: Registry, body: object, code: str, field: str
) -> None:
    await api.register(instance_id="users-1")

    refused(await api.post("/heartbeat/users-1", body), 400, code, field)
    assert registry.tally().renewed == 0


async def test_a_body_where_none_is_taken_is_refused_too(api: Api) -> None:
    await api.register(instance_id="users-1")
    answer = await api("DELETE", "/deregister/users-1", {"force": True})

    assert refused(answer, 400, "unknown_field", "force") == "this call has no field 'force'; it takes none"
    assert (await api.get("/instances/users-1")).status == 200
    assert (await api("DELETE", "/deregister/users-1", {})).status == 200


@pytest.mark.parametrize("path", [*GETS, "/services/"])
async def test_a_parameter_that_does_not_exist_is_refused(api: Api, path: str) -> None:
    await api.register(instance_id="users-1")

    detail = refused(await api.get(f"{path}?colour=blue"), 400, "unknown_parameter", "colour")
    assert detail.startswith("this call has no parameter 'colour'; it takes ")


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "null", "1.5", "9" * 5000])
async def test_a_bad_generation_is_refused(api: Api, text: str) -> None:
    await api.register(instance_id="users-1")
    answer = await api.post(f"/heartbeat/users-1?generation={text}")

    assert "send a positive integer" in refused(answer, 400, "invalid_parameter", "generation")


@pytest.mark.parametrize("text", ["%FF", "%C0%AF", "%ED%A0%80", "%E2%82", "%F4%90%80%80", "a%80"])
@pytest.mark.parametrize("name", ["zone", "tag", "meta.a", "colour"])
async def test_a_parameter_that_is_not_utf8_is_refused_as_a_path_is(api: Api, name: str, text: str) -> None:
    detail = refused(await api.get(f"/services/users?{name}={text}"), 400, "invalid_parameter", name)
    assert detail == f"{name} is not in UTF-8; send UTF-8, percent-encoded"
    assert (await api.get(f"/services/users?meta.{text}=x")).status == 400
    refused(await api.get(f"/instances/{text}"), 400, "bad_request")


async def test_a_parameter_given_twice_is_refused(api: Api) -> None:
    answer = await api.post("/heartbeat/users-1?generation=1&generation=1")

    assert "give it once" in refused(answer, 400, "invalid_parameter", "generation")


@pytest.mark.parametrize("name", ["a%2Fb", "..%2F..", "%00", "us%20ers", "us%C3%A9rs", "-x", "x" * 129])
async def test_a_service_name_in_the_path_is_held_to_its_rule(api: Api, name: str) -> None:
    detail = refused(await api.get(f"/services/{name}"), 400, "invalid_field", "service_name")

    assert "send 1 to 128 of A-Z a-z 0-9 . _ -" in detail


async def test_path_parts_are_percent_decoded(api: Api) -> None:
    await api.register(instance_id="users~1")

    assert (await api.get("/services/%75sers")).json["count"] == 1
    assert (await api.get("/instances/users%7E1")).status == 200


async def test_a_path_that_is_not_utf8_is_refused(api: Api) -> None:
    refused(await api.get("/services/%FF%FE"), 400, "bad_request")


@pytest.mark.parametrize(
    "path", ["/register/x", "/heartbeat", "/heartbeat/", "/nothing", "/services/a/b", "//services", "/Services"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_a_wrong_path_is_a_404_with_a_way_on(api: Api, method: str, path: str) -> None:
    answer = await api(method, path, b"" if method == "POST" else None)

    assert "GET /services" in refused(answer, 404, "unknown_path")


ALLOWED = [
    ("/register", "POST, OPTIONS"),
    ("/heartbeat/users-1", "POST, OPTIONS"),
    ("/deregister/users-1", "DELETE, OPTIONS"),
    *((path, "GET, HEAD, OPTIONS") for path in GETS),
]


@pytest.mark.parametrize(("path", "allow"), ALLOWED)
async def test_a_wrong_method_is_a_405_with_allow_and_options_says_the_same(api: Api, path: str, allow: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        if method in allow:
            continue
        answer = await api(method, path, b"x" if method in ("POST", "PUT") else None)
        assert (answer.status, answer.headers["Allow"]) == (405, allow), method
        if method != "HEAD":
            refused(answer, 405, "method_not_allowed")

    answer = await api("OPTIONS", path)
    assert (answer.status, answer.headers["Allow"], answer.body) == (204, allow, b"")


@pytest.mark.parametrize("path", GETS)
async def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    await api.register(instance_id="users-1")
    get, head = await api.get(path), await api("HEAD", path)

    assert (head.status, head.body) == (200, b"")
    ignored = {"Date"}
    assert {k: v for k, v in head.headers.items() if k not in ignored} == {
        k: v for k, v in get.headers.items() if k not in ignored
    }


@pytest.mark.parametrize("path", GETS)
async def test_a_trailing_slash_is_accepted(api: Api, path: str) -> None:
    await api.register(instance_id="users-1")

    assert (await api.get(f"{path}/")).body == (await api.get(path)).body


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/plain",
        "application/json; charset=latin-1",
        "nonsense",
    ],
)
async def test_a_body_is_json_whatever_its_content_type(api: Api, content_type: str) -> None:
    assert (await api.post("/register", GOOD, Content_Type=content_type)).status == 200


async def test_the_body_of_a_get_means_nothing(api: Api) -> None:
    assert (await api("GET", "/services", b"nonsense")).status == 200


async def test_our_own_fault_is_logged_and_not_told(
    api: Api, registry: Registry, expect_log: ExpectLog, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("secret")

    registry.services = fail  # type: ignore[method-assign, assignment]
    with expect_log("failed request=GET /services"):
        answer = await api.get("/services")

    detail = refused(answer, 500, "internal_error")
    assert "secret" not in answer.body.decode()
    assert "log" in detail
    assert "RuntimeError: secret" in caplog.text


class TestOfSmallLimits:
    """Every limit is a setting, and a refusal names it."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(
            service_name_length=5, instance_id_length=5, base_url_length=20, ttl_seconds=60, metadata_pairs=1,
            metadata_key_length=2, metadata_value_length=3, tags=1, tag_length=2, version_length=2, zone_length=2,
            weight=9, instances=2, instances_per_service=1,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("field", "value", "flags"),
        [
            ("service_name", "users2", ["--max-service-name-length"]),
            ("instance_id", "users2", ["--max-instance-id-length"]),
            ("base_url", "http://10.0.0.5:80000", ["--max-base-url-length"]),
            ("ttl", 61, ["--max-ttl-seconds"]),
            ("metadata", {"a": "1", "b": "2"}, ["--max-metadata-pairs"]),
            ("metadata", {"abc": "1"}, ["--max-metadata-key-length"]),
            ("metadata", {"a": "1234"}, ["--max-metadata-value-length"]),
            ("tags", ["a", "b"], ["--max-tags"]),
            ("tags", ["abc"], ["--max-tag-length"]),
            ("version", "abc", ["--max-version-length"]),
            ("zone", "abc", ["--max-zone-length"]),
            ("weight", 10, ["--max-weight"]),
        ],
    )
    async def test_a_value_over_a_limit_names_it(self, api: Api, field: str, value: object, flags: list[str]) -> None:
        small = {"service_name": "users", "base_url": "http://h:1"}
        detail = refused(await api.post("/register", small | {field: value}), 400, "invalid_field", field)

        assert all(flag in detail for flag in flags)

    async def test_one_instance_too_many_is_a_429_that_names_the_limit(self, api: Api) -> None:
        await api.register("a", base_url="http://h")
        answer = await api.post("/register", {"service_name": "a", "base_url": "http://h"})
        assert "--max-instances-per-service" in refused(answer, 429, "limit_reached")
        assert answer.headers["Retry-After"] == "1"

        await api.register("b", base_url="http://h")
        answer = await api.post("/register", {"service_name": "c", "base_url": "http://h"})
        assert "--max-instances)" in refused(answer, 429, "limit_reached")
