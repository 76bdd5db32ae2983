"""A server with keys, as whoever has one sees it, and whoever has none."""

from __future__ import annotations

import httpx2
import pytest

from tests.closed import House
from tests.processes import until

pytestmark = pytest.mark.slow

BODY = {"operation": "script", "input": {"file": "hello.sh"}}


def test_nobody_gets_in_but_by_a_key(house: House) -> None:
    assert house.ask("POST", "/runs", BODY)[0] == 401
    assert house.ask("GET", "/run_file?file_path=hello.sh")[0] == 401
    assert house.ask("GET", "/healthz")[0] == 200
    # Whoever started it is let in without a word, here and in curl.
    own = house.tailrace("run", "--detach", "hello.sh").stdout.strip()
    header = (house.state / "tailrace" / "launch-key").read_text().partition(": ")[2].strip()
    assert house.ask("GET", f"/runs/{own}", authorization=header)[0] == 200
    ada, bob = house.key("ada", "run,watch,cancel"), house.key("bob", "watch")
    until(lambda: house.ask("GET", "/runs", x_api_key=bob)[0] == 200, "the key is known")
    status, told = house.ask("POST", "/runs", BODY, authorization=f"Bearer {ada}")
    assert status == 201
    run = told["id"]
    for secret, answer in ((ada, 200), (bob, 404), (ada[:-1] + "x", 401)):
        assert house.ask("GET", f"/runs/{run}", x_api_key=secret)[0] == answer
        assert house.ask("GET", f"/runs/{run}/output", x_api_key=secret)[0] == answer
    assert house.ask("POST", "/runs", BODY, x_api_key=bob)[0] == 403
    assert house.ask("GET", f"/runs/{own}", x_api_key=ada)[0] == 404
    admin = house.key("root", "admin")
    until(lambda: house.ask("GET", f"/runs/{run}", x_api_key=admin)[0] == 200, "the admin sees it")
    assert len(house.ask("GET", "/runs", x_api_key=admin)[1]["runs"]) == 2
    # The command line has it from the environment, and nobody sees it there.
    assert house.tailrace("runs", "ls", TAILRACE_KEY=ada).returncode == 0
    assert house.tailrace("watch", "-q", run, TAILRACE_KEY=ada).stdout == "hello\n"
    assert len(house.tailrace("runs", "ls").stdout.splitlines()) == 3, "its starter sees all"
    refused = house.tailrace("runs", "ls", XDG_STATE_HOME=str(house.state / "of-somebody-else"))
    assert refused.returncode == 125
    assert "wants to know who asks" in refused.stderr
    # Revoked, one is as good as none.
    for name in ("ada", "bob", "root"):
        assert house.tailrace("keys", "rm", name).returncode == 0
    until(lambda: house.ask("GET", "/runs", x_api_key=admin)[0] == 401, "nobody gets in")
    assert house.ask("GET", "/runs")[0] == 401
    for secret in (ada, bob, admin):
        assert secret not in house.said.read_text()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "localhost"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({}, 200),
    ],
    ids=str,
)
def test_from_where_one_may_ask(house: House, headers: dict[str, str], status: int) -> None:
    headers["x_api_key"] = house.key("ada", "run,watch")
    until(lambda: house.ask("GET", "/runs", x_api_key=headers["x_api_key"])[0] == 200, "known")
    for path in ("/runs", "/operations", "/run_file?file_path=hello.sh"):
        assert house.ask("GET", path, **headers)[0] == status, path


def test_a_link_for_the_browser(house: House) -> None:
    link = house.tailrace("login").stdout.strip()
    assert link.startswith(f"http://127.0.0.1:{house.port}/?login=")
    with httpx2.Client(trust_env=False) as browser:
        answer = browser.get(link)
        assert answer.status_code == 200
        assert "httponly; samesite=strict" in answer.headers["set-cookie"].lower()
        assert browser.get(f"http://127.0.0.1:{house.port}/runs").status_code == 200
        [cookie] = browser.cookies.jar
        # What a page of another site makes the browser send is refused, cookie or not.
        for site in ("cross-site", "same-site"):
            sent = {"sec-fetch-site": site, "origin": "http://127.0.0.1:1"}
            answer = browser.post(f"http://127.0.0.1:{house.port}/runs", json=BODY, headers=sent)
            assert answer.status_code == 403
    assert httpx2.get(link, trust_env=False).status_code == 401
    # Its cookie goes on after a restart, so whoever watched goes on.
    house.restart()
    kept = {cookie.name: str(cookie.value)}
    assert (
        house.ask("GET", "/runs", cookie="; ".join(f"{n}={v}" for n, v in kept.items()))[0] == 200
    )
