"""The auth file: what it says, what is wrong with it, and how tokens get into it."""

import re
import stat
from pathlib import Path

import pytest

from registryd.auth import Access, BadAuthFile, new_token, read
from registryd.core.errors import Unauthorized

HASH = f'hash = "sha256:{"0" * 64}"'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.toml"


def access(path: Path) -> Access:
    return Access(read(str(path)))


def test_without_a_file_everyone_may_do_everything() -> None:
    access = Access()

    for shown in (None, "Bearer whatever", "Basic x"):
        assert access.caller(shown).may("admin", "users")


def test_a_new_token_is_known_and_its_file_does_not_have_it(path: Path) -> None:
    one = new_token(str(path), "users-svc", ["register"], ["user*", "media"])
    other = new_token(str(path), "ops", ["operate"], ["*"])

    assert one.startswith("rgd_")
    assert len({one, other}) == 2
    assert one not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    known = access(path)
    assert len(known) == 2
    for shown in (f"Bearer {one}", f"bearer  {one} ", f"BEARER {one}"):
        caller = known.caller(shown)
        assert caller.name == "users-svc"
        assert caller.rights == {"register"}
    assert caller.may("register", "users")
    assert not caller.may("register", "timelines")
    assert known.caller(f"Bearer {other}").rights == {"read", "operate"}


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer ", "Bearer rgd_", "Basic {token}", "{token}", "Bearer {token}x", "Bearer \xff", "Bearer ✓"],
)
def test_what_is_no_token_is_refused(path: Path, shown: str) -> None:
    token = new_token(str(path), "a", ["admin"], ["*"])
    with pytest.raises(Unauthorized, match="is not known here") as refused:
        access(path).caller(shown.replace("{token}", token))
    assert refused.value.is_bad
    assert token not in str(refused.value)


def test_who_shows_nothing_may_what_anyone_may(path: Path) -> None:
    path.write_text("")
    with pytest.raises(Unauthorized, match="this registry needs a token") as refused:
        access(path).caller(None)
    assert not refused.value.is_bad

    path.write_text('[anyone]\nallow = ["read"]\nservices = ["public-*"]\n')
    caller = access(path).caller(None)
    assert (caller.name, caller.may("read", "public-x"), caller.may("read", "x")) == ("", True, False)
    with pytest.raises(Unauthorized):
        access(path).caller("Bearer x")


def test_it_lets_others_in_from_now_on(path: Path) -> None:
    token = new_token(str(path), "a", ["read"], ["*"])
    known = Access()
    known.take(read(str(path)))
    assert known.caller(f"Bearer {token}").name == "a"
    path.write_text("")
    known.take(read(str(path)))
    with pytest.raises(Unauthorized):
        known.caller(f"Bearer {token}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[tokens", "is no TOML: Expected"),
        ("\xff", "is no TOML: .*utf-8"),
        ("a = " + "[" * 3000, "is no TOML: maximum recursion depth exceeded"),
        ('"a\\nb" = 1', r"there is no 'a\\nb'; it has tables"),
        ('[tokens.a]\n"x\\ny" = 1', r"tokens.a: .* unknown field `x\\ny`"),
        ("tokens = 1", r"tokens is no table; give each token a table \[tokens.NAME\]"),
        ("token.a = 1", r"there is no token; it has tables \[tokens.NAME\] and \[anyone\]"),
        ("[tokens.a]\nallow = []", "tokens.a: its hash is not sha256: and 64 digits"),
        (
            '[tokens.a]\nallow = ["read"]\nhash = "secret"',
            "tokens.a: its hash is not sha256: and 64 digits; make one with",
        ),
        (f"[tokens.a]\n{HASH}", "tokens.a: .* missing required field `allow`"),
        (f'[tokens.a]\n{HASH}\nallow = ["reed"]', "tokens.a: there is no right 'reed'; there are read, register, "),
        (f'[tokens.a]\n{HASH}\nallow = "read"', "tokens.a: Expected `array`, got `str`"),
        (f'[tokens.a]\n{HASH}\nallow = []\nservices = ["a b"]', "tokens.a: 'a b' is no pattern for names of services"),
        (f"[tokens.a]\n{HASH}\nallow = []\nservice = []", "tokens.a: .* unknown field `service`"),
        (f"[tokens.'a b']\n{HASH}\nallow = []", "tokens.a b: a name is 1 to 128 of"),
        (
            f"[tokens.a]\n{HASH}\nallow = []\n[tokens.b]\n{HASH}\nallow = []",
            "tokens.b: its token is that of a; give each",
        ),
        ('[anyone]\nallow = ["write"]', "anyone: there is no right 'write'"),
    ],
)
def test_a_bad_file_says_where_and_why(path: Path, text: str, why: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadAuthFile, match=f"{re.escape(str(path))}.*{why}") as refused:
        read(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_not_an_empty_one(path: Path) -> None:
    with pytest.raises(BadAuthFile, match=r"cannot read the auth file .*: No such file or directory; set --auth-file"):
        read(str(path))


def test_what_was_in_the_file_stays(path: Path) -> None:
    path.write_text('# mine\n[anyone]\nallow = ["read"] # all\n\n\n')
    path.chmod(0o640)
    new_token(str(path), "a", ["read"], ["*"])

    assert path.read_text().startswith('# mine\n[anyone]\nallow = ["read"] # all\n\n[tokens."a"]\nhash = "sha256:')
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "allow", "services", "why"),
    [
        ("a", ["read"], ["*"], "has a token 'a'; take another name, or remove its table"),
        ("b c", ["read"], ["*"], "a name is 1 to 128 of"),
        ('b"]\n[x', ["read"], ["*"], "a name is 1 to 128 of"),
        ("b", ["write"], ["*"], "there is no right 'write'"),
        ("b", ["read"], ["a b"], "is no pattern"),
    ],
)
def test_a_token_that_cannot_be_used_leaves_the_file_alone(
    path: Path, name: str, allow: list[str], services: list[str], why: str
) -> None:
    new_token(str(path), "a", ["read"], ["*"])
    before = path.read_bytes()
    with pytest.raises(BadAuthFile, match=f"{re.escape(str(path))}.*{why}"):
        new_token(str(path), name, allow, services)

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_broken_file_is_not_written_to(path: Path) -> None:
    path.write_text("[broken")
    with pytest.raises(BadAuthFile, match="is no TOML"):
        new_token(str(path), "a", ["read"], ["*"])
    assert path.read_text() == "[broken"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadAuthFile, match=r"cannot write the auth file .*: No such file or directory"):
        new_token(str(tmp_path / "no/auth.toml"), "a", ["read"], ["*"])
