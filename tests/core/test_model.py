"""base_url: taken apart, or refused in a sentence that says why."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from registryd.core.errors import InvalidInput
from registryd.core.model import Endpoint, parse_base_url


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://10.0.0.5:8000", Endpoint("http", "10.0.0.5", 8000, "")),
        ("HTTPS://users.example.com", Endpoint("https", "users.example.com", None, "")),
        ("http://users:8000/v1/?a=b@c", Endpoint("http", "users", 8000, "/v1/?a=b@c")),
        ("http://[::1]:8000/", Endpoint("http", "::1", 8000, "/")),
        ("grpc+tls://h:1", Endpoint("grpc+tls", "h", 1, "")),
        ("http://h:", Endpoint("http", "h", None, "")),
        ("http://h?x=1", Endpoint("http", "h", None, "?x=1")),
        ("http://käse.example:80", Endpoint("http", "käse.example", 80, "")),
    ],
)
def test_a_good_base_url_is_taken_apart(url: str, endpoint: Endpoint) -> None:
    assert parse_base_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "no scheme"),
        ("users", "no scheme"),
        ("10.0.0.5:8000", "no scheme"),
        ("//10.0.0.5:8000", "no scheme"),
        ("://h", "no scheme"),
        ("mailto:a@b", "no scheme"),
        ("1http://h", "not an absolute URL"),
        ("http://", "no host"),
        ("http:///path", "no host"),
        ("http://:8000", "no host"),
        ("http://u:p@h", "user info"),
        ("http://u@h/", "user info"),
        ("http://h/#top", "fragment"),
        ("http://a b", "white space"),
        ("http://h/\t", "white space"),
        ("http://h\n", "white space"),
        ("http://h\x00", "control character"),
        ("http://h/\x7f", "control character"),
        ("http://h/\u2028", "white space"),
        ("http://h\\@evil", "backslash"),
        ("http://h:99999", "port"),
        ("http://h:80a", "port"),
        ("http://h:-1", "port"),
        ("http://h:\u0661", "port"),
        ("http://[::1", "not an absolute URL"),
        ("http://[h]:1", "IPv6"),
        ("http://::1:80", "no host"),
    ],
)
def test_a_bad_base_url_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as refused:
        parse_base_url(url)

    assert refused.value.field == "base_url"


@given(st.text())
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    try:
        endpoint = parse_base_url(text)
    except InvalidInput:
        return
    assert endpoint.scheme
    assert endpoint.host
    assert not any(c.isspace() for c in text)
