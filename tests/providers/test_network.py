"""Proxies and certificates of a company: both transports honour them alike."""

from __future__ import annotations

import base64
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanodistill.errors import CallError, FatalProviderError, TransientError
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.providers.openai_compatible import proxy_for
from providers.opened import config_for, opened, request
from providers.server import TeacherServer, html, status

pytestmark = pytest.mark.anyio

AWAY = "http://teacher.invalid/v1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["auto", "litellm"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _own_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_VERIFY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    litellm = load_litellm()
    before = litellm.ssl_verify
    yield
    litellm.ssl_verify = before


async def ask(base: str, transport: str) -> str:
    async with opened(config_for(base, transport=transport)) as provider:
        return (await provider.complete(request())).completion.text


async def test_calls_go_through_the_proxy(
    teacher_server: TeacherServer, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = teacher_server.root.removeprefix("http://")
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{place}")
    assert await ask(AWAY, transport)
    (call,) = teacher_server.calls
    assert call.headers["Host"] == "teacher.invalid"
    told = base64.b64encode(b"me:secret").decode()
    assert call.headers["Proxy-Authorization"] == f"Basic {told}"


async def test_a_proxy_that_refuses_stops_the_run(
    teacher_server: TeacherServer, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", teacher_server.root)
    teacher_server.next(status(407, "Proxy Authentication Required"))
    with pytest.raises(FatalProviderError) as refused:
        await ask(AWAY, transport)
    assert refused.value.kind == "proxy"


async def test_a_proxy_that_is_away_is_a_lost_connection(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with pytest.raises(TransientError) as lost:
        await ask(AWAY, transport)
    assert lost.value.kind == "connection"


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("https://a.example/v1") is None
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example,127.0.0.1")
    assert proxy_for("https://a.example/v1") == "http://proxy.example:3128"
    assert proxy_for("http://a.example/v1") is None
    assert proxy_for("https://api.inside.example/v1") is None
    assert proxy_for("https://127.0.0.1:8000/v1") is None
    monkeypatch.setenv("ALL_PROXY", "socks.example:1")
    assert proxy_for("http://a.example/v1") == "http://socks.example:1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of our own for 127.0.0.1, and its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate.pem"


@pytest.fixture
def secure_server(certificate: Path) -> Iterator[TeacherServer]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with TeacherServer(tls=tls) as server:
        yield server


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
async def test_certificates_of_the_company(
    secure_server: TeacherServer,
    certificate: Path,
    transport: str,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    assert await ask(secure_server.url, transport)


async def test_an_unknown_certificate_stops_the_run(
    secure_server: TeacherServer, transport: str
) -> None:
    with pytest.raises(CallError) as refused:
        await ask(secure_server.url, transport)
    assert (type(refused.value), refused.value.kind) == (FatalProviderError, "certificate")


async def test_trust_can_be_given_up(
    secure_server: TeacherServer, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_VERIFY", "False")
    assert await ask(secure_server.url, transport)


async def test_an_address_without_v1_is_named_with_the_likely_one(
    teacher_server: TeacherServer, transport: str
) -> None:
    base = teacher_server.url.removesuffix("/v1")
    with pytest.raises(CallError, match="404") as refused:
        await ask(base, transport)
    assert (type(refused.value), refused.value.kind) == (FatalProviderError, "not_found")
    assert f"{base};" in refused.value.message
    assert f"{base}/v1" in refused.value.message


async def test_a_page_and_a_closed_port_are_named_with_the_address(
    teacher_server: TeacherServer, transport: str
) -> None:
    teacher_server.next(html(200))
    closed = "http://127.0.0.1:9/v1"
    for base in (teacher_server.url, closed):
        with pytest.raises(TransientError) as failed:
            await ask(base, transport)
        assert base in failed.value.message
