"""Which proxy an address is reached through, from the environment of any host."""

from __future__ import annotations

import pytest

from registry.httpclient.proxies import ProxyFault, proxy_for

PROXY = {"http_proxy": "http://p:3128", "https_proxy": "http://p:3128"}


@pytest.mark.parametrize(
    ("no_proxy", "direct", "proxied"),
    [
        ("fd00::/8", "https://[fd12::1]:8470", "https://[fe00::1]"),
        ("a,fd00::/8,b", "http://[fdff:1::2]", "http://reg.example"),
        ("fd00::1", "http://[fd00::1]:8470", "http://[fd00::2]"),
        ("[fd00::1]", "http://[fd00::1]:8470", "http://[fd00::2]"),
        ("[fd00::1]:8470", "http://[fd00::1]:8470", "http://[fd00::1]:8471"),
        ("[fd00::]/8", "http://[fd00::1]", "http://[2001:db8::1]"),
        ("10.0.0.0/8", "http://10.2.3.4:8470", "http://11.2.3.4"),
        ("10.1.2.3/8", "http://10.2.3.4:8470", "http://11.2.3.4"),
        ("10.0.0.0/8", "http://[::ffff:10.1.1.1]", "http://ten.example"),
        ("192.168.1.1:80", "http://192.168.1.1", "https://192.168.1.1"),
        (".example.com", "http://reg.example.com", "http://example.com.evil"),
        ("*.example.com", "http://reg.example.com", "http://badexample.com"),
        ("example.com", "http://example.com", "http://myexample.com"),
        ("EXAMPLE.com.", "http://reg.Example.COM", "http://example.org"),
        ("example.com:8470", "http://reg.example.com:8470", "http://reg.example.com"),
        ("http://reg.example", "http://reg.example", "http://other.example"),
        ("*", "https://anything.example", ""),
        (" a , reg.example  b", "http://reg.example", "http://x.example"),
        ("reg.example:port", "", "http://reg.example"),
        ("10.0.0.0/99,fd00::/200,[[::,::::,/,:,@,%, ,,", "", "http://reg.example"),
        ("ümlaut.example", "", "http://reg.example"),
        (".", "", "http://reg.example"),
        ("", "", "http://reg.example"),
    ],
)
def test_what_no_proxy_names_is_reached_without_one_and_nothing_else_is(
    no_proxy: str, direct: str, proxied: str
) -> None:
    environment = {**PROXY, "no_proxy": no_proxy}
    assert not direct or proxy_for(direct, environment) is None
    assert not proxied or proxy_for(proxied, environment) is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "[::1]", "localhost", "a.localhost", "[::ffff:127.0.0.1]"])
def test_this_hosts_loopback_is_never_reached_through_a_proxy(host: str) -> None:
    assert proxy_for(f"http://{host}:8470", {"all_proxy": "nonsense://"}) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://p:3128", ("http", "p", 3128)),
        ("p:3128", ("http", "p", 3128)),
        ("p", ("http", "p", 80)),
        ("https://p", ("https", "p", 443)),
        ("http://[fd00::1]:3128", ("http", "fd00::1", 3128)),
        ("[fd00::1]:3128", ("http", "fd00::1", 3128)),
        ("socks5h://p", ("socks5h", "p", 1080)),
        ("http://p:3128/", ("http", "p", 3128)),
        (" http://p:3128 ", ("http", "p", 3128)),
    ],
)
def test_a_proxys_address_is_taken_as_people_write_it(value: str, expected: tuple[str, str, int]) -> None:
    proxy = proxy_for("http://reg.example", {"HTTP_PROXY": value})
    assert proxy is not None
    assert (proxy.scheme, proxy.host, proxy.port) == expected
    assert proxy.variable == "HTTP_PROXY"


def test_user_and_password_are_decoded_and_not_shown() -> None:
    proxy = proxy_for("http://reg.example", {"HTTP_PROXY": "http://us%40er:pa%3Ass@p:1"})
    assert proxy is not None
    assert proxy.login == ("us@er", "pa:ss")
    assert "pa:ss" not in repr(proxy)


@pytest.mark.parametrize(
    "value",
    [
        "http://",
        "://",
        "http://[::1",
        "http://p:port",
        "http://p:99999",
        "http://p:0",
        "ftp://p",
        "socks4://p",
        "//p x",
    ],
)
def test_a_proxy_that_is_none_is_said_with_its_variable_and_without_its_password(value: str) -> None:
    with pytest.raises(ProxyFault, match="HTTPS_PROXY=") as fault:
        proxy_for("https://reg.example", {"HTTPS_PROXY": value.replace("://", "://me:secret@")})
    assert "secret" not in str(fault.value)


def test_only_the_variable_that_applies_is_looked_at() -> None:
    environment = {"HTTP_PROXY": "nonsense://x", "ALL_PROXY": "socks5h://x", "HTTPS_PROXY": "http://right:1"}
    proxy = proxy_for("https://reg.example", environment)
    assert proxy is not None
    assert proxy.host == "right"


def test_small_letters_win_also_when_they_are_empty() -> None:
    assert proxy_for("http://reg.example", {"http_proxy": "", "HTTP_PROXY": "http://p:1"}) is None
