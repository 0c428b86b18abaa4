"""Passwords of addresses: hidden in whatever form a text has them, and nothing else is."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tracking.journal import JsonLines, Tracker
from pipelines.tracking.masks import MaskedStream, mask_streams, masked, masked_values, remember
from pipelines.tracking.places import check_address, without_login

ADDRESSES = [
    "http://user:{}@host:5000/path",
    "https://user:{}@host/#/experiments/1",
    "postgresql://user:{}@one:5432,two:5433/base?sslmode=require",
    "postgresql+psycopg2://user@host/base?password={}",
    "postgresql://user@host/base?sslmode=require&sslpassword={}&x=1",
    "mysql+pymysql://user:{}@host/base",
    "https://host/path?token={}",
    "https://host/path?a=1&api_key={}",
    "https://bucket.host/file?X-Amz-Signature={}&X-Amz-Security-Token={}",
    "ssh://user:{}@host/path",
    "redis://:{}@host:6379/0",
]
SENTENCES = [
    "{}",
    "the server at {} does not answer",
    "error('{}')",
    '"{}"',
    "<a href='{}'>",
    "MLFLOW_TRACKING_URI={}",
    "(could not parse {}: no port), try again",
    "one {} and another@mail.org",
]
SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("Cs", "Cc", "Zs")), min_size=1
)


@given(secret=SECRETS, address=st.sampled_from(ADDRESSES), sentence=st.sampled_from(SENTENCES))
def test_no_password_of_an_address_is_left(secret: str, address: str, sentence: str) -> None:
    mark = "qZ7" + quote(secret, safe="") + "qZ7"
    shown = masked(sentence.format(address.format(*2 * [mark])))
    assert mark not in shown and "***" in shown and masked(shown) == shown
    assert "host" in shown or "two" in shown  # where it went is still said


@given(secret=SECRETS.filter(lambda text: "@" not in text and not text[0].isdigit()))
def test_a_password_that_nobody_encoded_is_hidden_too(secret: str) -> None:
    shown = masked(f"at postgresql://user:q{secret}Z7@host/base now")
    assert f"q{secret}Z7" not in shown and shown.endswith("@host/base now")


@pytest.mark.parametrize(
    "secret", ["Tr0ub4dor&3", "p@ss/w:rd?#", "äöü-ß→x9", 'it\'s "quoted"9', "back\\slash7", "longenoughword"]
)
@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "CGANKD_SEARCH_STORAGE", "HTTPS_PROXY", "ANY_NAME"])
def test_a_known_password_is_hidden_in_every_way_it_is_written(
    secret: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"http://user:{quote(secret, safe='')}@host:5000")
    for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret), json.dumps(secret)):
        shown = masked(f"login of user with <{form}> failed")
        assert secret not in shown and form.strip("'\"") not in shown and "login of user with" in shown


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY"]
)
def test_variables_that_are_passwords(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "Canary77")
    assert masked("it was Canary77.") == "it was ***."


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SESSION_TOKEN", "MY_API_KEY"]
)
@pytest.mark.parametrize("value", ["kanarien", "finken", "482915"])
def test_a_variable_that_is_a_password_is_hidden_though_it_is_a_plain_word(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert masked(f"error({value!r}) at {value}, user:{value}!") == "error('***') at ***, user:***!"
    assert masked(f"a{value}") == f"a{value}", "not within another word"


def test_a_password_that_is_a_word_of_the_records_spoils_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "params")
    Tracker(JsonLines(path := tmp_path / "a.jsonl"), "teacher", {}).params({"x": "y"})
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["run", "params"]
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "teacher")
    assert masked("the teacher") == "the teacher"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "mlflow")
    check_address("http://mlflow:5000")


@pytest.mark.parametrize("secret", ["2024/Kanarien", "2024?Kanarien", "1#K", "20/a@b", "5/x:y"])
@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql", "mysql", "redis"])
def test_a_password_that_begins_as_a_port_does(scheme: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{scheme}://me:{secret}@127.0.0.1:9/base"
    assert masked(f"at {address}.") == f"at {scheme}://me:***@127.0.0.1:9/base."
    if len(secret) >= 4:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert secret not in masked(f"login with {secret} failed")


def test_a_web_address_with_such_a_password_and_a_host_with_a_port() -> None:
    assert masked("http://me:2024/Kanarien@host:5000/x") == "http://me:***@host:5000/x"


@pytest.mark.parametrize(
    "name, address, secret",
    [
        ("RAY_ADDRESS", "me:{}@127.0.0.1:6379", "Kanarien7"),
        ("https_proxy", "me:{}@proxy:3128", "Kanarien7"),
        ("CGANKD_SHARED", "s3:/AKIA:{}@bucket", "Kanarien7"),
        ("CGANKD_SHARED", "//me:{}@bucket/folder", "Kanarien7"),
        ("CGANKD_SEARCH_STORAGE", "postgresql://me:{}@host/base", "Kanarien7 mit Luecke"),
        ("AZURE_STORAGE_CONNECTION_STRING", "Protocol=https;AccountKey={};EndpointSuffix=x", "Kanarien7=="),
    ],
)
def test_logins_of_other_forms(name: str, address: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = masked(f"{name} is {address.format(secret)}")
    assert secret not in shown and "***" in shown and masked(shown) == shown
    monkeypatch.setenv(name, address.format(secret))
    assert masked(f"login by <{secret}> failed") == "login by <***> failed"


def test_what_was_given_by_an_option_is_hidden_once_it_is_known() -> None:
    assert masked("no Canary88a here") == "no Canary88a here"
    remember("postgresql://user:Canary88a@host/base")
    assert masked("no Canary88a here") == "no *** here"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("{'user': 'a', 'password': 'x y', \"token\": \"z\"}", "{'user': 'a', 'password': '***', \"token\": \"***\"}"),
        ("host=h password=abc dbname=x", "host=h password=*** dbname=x"),
        ("connect(password='a b', port=1)", "connect(password='***', port=1)"),
        ("Authorization: Basic dXNlcjpw", "Authorization: Basic ***"),
        ("see postgresql%3A%2F%2Fu%3Ap%40h%2Fdb", "see postgresql%3A%2F%2Fu%3A***%40h%2Fdb"),
        ("https://ghp_abc123@host/x.git", "https://***@host/x.git"),
        ("http://u:***@host", "http://u:***@host"),
        ("AccountName=a;AccountKey=b+c/d==;EndpointSuffix=e", "AccountName=a;AccountKey=***;EndpointSuffix=e"),
        ("https://h/x?jwt=a.b.c&y=1", "https://h/x?jwt=***&y=1"),
        ("https://h/back?state=1&code=4x5", "https://h/back?state=1&code=***"),
        ("at //u:pw@h/share", "at //u:***@h/share"),
        ("postgresql://u:p w x@h/b and more", "postgresql://u:***@h/b and more"),
    ],
)
def test_other_forms(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/7/runs/abc",
        "postgresql://user@host/database",
        "ssh://git@host/path",
        "sqlite:////home/a:b@c/mlflow.db",
        "models:/digits@champion",
        "bank.rho=0.7 key=1 token_dim=4 cgan.embed_dim=16",
        "http://host:5000/users/a@b",
        "http://[::1]:5000 is the page of a@b",
        "redis://host:6379 and mail to a@b",
        "python:3.11@sha256:0123456789abcdef",
        "it took 12:30, says a@b:80",
        "the teacher of 5 students said: password",
        "",
    ],
)
def test_what_holds_no_password_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


def test_nested_values_and_streams() -> None:
    secret = "http://u:Canary99@h"
    assert masked_values({"a": [secret, 1.5, None], "b": {"c": (secret,)}}) == {
        "a": ["http://u:***@h", 1.5, None],
        "b": {"c": ["http://u:***@h"]},
    }
    stream = io.StringIO()
    hidden = MaskedStream(stream)
    print("at", secret, file=hidden, flush=True)
    hidden.writelines([secret, "\n"])
    assert stream.getvalue() == "at http://u:***@h\nhttp://u:***@h\n" and hidden.isatty() is False


def test_what_any_library_prints_goes_through_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    mask_streams()
    mask_streams()
    print("at http://u:Canary99@h")
    sys.stderr.write("at http://u:Canary99@h")
    assert out.getvalue() == "at http://u:***@h\n" and err.getvalue() == "at http://u:***@h"
    assert vars(sys.stdout)["_stream"] is out, "once"


def test_no_event_in_the_json_lines_keeps_one(tmp_path: Path) -> None:
    secret = "http://u:Canary99@h"
    tracker = Tracker(JsonLines(path := tmp_path / "a.jsonl"), "a", {"tags": {"overrides": f"data.root={secret}"}})
    tracker.say(f"MLflow at {secret} failed")
    tracker.params({"x": secret, "y": [secret]})
    tracker.tags({"z": secret})
    tracker.child("c", {"x": secret}, {"t": secret}).close("FINISHED")
    tracker.close("FAILED")
    assert "Canary99" not in path.read_text() and path.read_text().count("u:***@h") == 8


def test_the_address_of_a_server_is_kept_without_its_login() -> None:
    assert without_login("http://u:p%40q@h:1/x?y#z") == "http://h:1/x?y#z"
    assert without_login("https://u:p@q@h") == "https://h" and without_login("http://h/a@b") == "http://h/a@b"
    assert without_login("postgresql://u:p@h/b") == "postgresql://u:p@h/b" and without_login("") == ""
