"""`chatenv-rl view`: pages of files and of a live server, as a person gets them."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from chatenv_client import ChatAction, ChatEnv, write_trajectories
from chatenv_server import serve
from chatenv_server.settings.settings import Settings
from tests.viewing.conftest import texts
from tools.sample_episodes import run_of, thinking_episode

CHATENV = (sys.executable, "-m", "chatenv_server.commands.cli")
VIEW = (*CHATENV, "view")
HELLO = {"role": "user", "content": "Grüße!"}


@pytest.fixture
def address() -> Iterator[str]:
    with serve(Settings(listen=("127.0.0.1:0",))) as server:
        yield server.target


@pytest.fixture
def env(address: str) -> Iterator[ChatEnv]:
    """An episode on a server."""
    with ChatEnv(address) as env:
        env.reset(episode_id="a:b", messages=[HELLO], group="g")
        env.step(ChatAction(tokens=[*b"Hi", 257], logprobs=[-0.5] * 3, model_version="w1"))
        yield env


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a run in it, and a thing that is none."""
    write_trajectories(tmp_path / "a.jsonl", run_of(5))
    write_trajectories(tmp_path / "b.jsonl", [thinking_episode()[1]])
    tmp_path.joinpath("notes.txt").write_text("not an episode")
    return tmp_path


def view(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VIEW, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def showing() -> Iterator[Callable[..., str]]:
    """Starts the command where it shows pages; the address that it prints."""
    started: list[subprocess.Popen[str]] = []

    def show(*arguments: str) -> str:
        command = [*VIEW, *arguments, "--json"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        return str(json.loads(started[-1].stdout.readline())["url"])

    yield show
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1].count("Traceback") == 0
        assert process.returncode == 0


def fetched(url: str, *, host: str | None = None) -> tuple[int, str, dict[str, str]]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request("GET", url.split(parts.netloc)[1], headers={"Host": host or parts.netloc})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def data_of(page: str) -> Any:
    return json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>", maxsplit=1)[0])


def test_a_folder_becomes_a_page_of_each_episode_and_one_of_all(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = view(str(files), "--html", str(out), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"page": str(out / "index.html"), "episodes": 6})
    assert "show token ids alone" in done.stderr
    rows = data_of(out.joinpath("index.html").read_text())["episodes"]
    assert [row["episode_id"] for row in rows] == [*(f"run3-{number:04}" for number in range(5)), "sums-7"]
    for row in rows:
        page = data_of((out / row["href"]).read_text())
        assert page["episode_id"] == row["episode_id"]
        assert (out / "episodes" / page["view"]["index_href"]).resolve() == out / "index.html"
    relatives = data_of((out / rows[0]["href"]).read_text())["view"]["relatives"]
    assert {one["episode_id"] for one in relatives} == {f"run3-{number:04}" for number in range(1, 5)}
    assert all((out / "episodes" / one["href"]).is_file() for one in relatives)


def test_one_episode_becomes_one_file_with_the_texts_of_a_tokenizer(env: ChatEnv, tmp_path: Path) -> None:
    write_trajectories(tmp_path / "one.jsonl", [env.trajectory()])
    out = tmp_path / "one.html"
    assert view(str(tmp_path / "one.jsonl"), "--html", str(out), "--tokenizer", "bytes").stdout == f"{out}\n"
    data = data_of(out.read_text())
    assert (data["texts"]["72"], data["texts"]["257"], data["bytes"]["195"]) == ("H", "<|im_end|>", "c3")


def test_without_a_place_to_write_to_one_episode_becomes_a_file_of_its_own(env: ChatEnv, tmp_path: Path) -> None:
    write_trajectories(tmp_path / "one.jsonl", [env.trajectory()])
    page = Path(view(str(tmp_path / "one.jsonl")).stdout.strip())
    assert data_of(page.read_text())["episode_id"] == "a:b"
    assert page.parent.stat().st_mode & 0o077 == 0
    page.unlink()
    page.parent.rmdir()


def test_all_live_episodes_become_a_folder_of_pages(env: ChatEnv, address: str, tmp_path: Path) -> None:
    with ChatEnv(address) as other:
        other.reset(episode_id="second", messages=[HELLO])
        done = view("--html", str(tmp_path / "out"), "--address", address)
    assert done.stdout == f"{tmp_path / 'out' / 'index.html'}\n"
    rows = data_of(tmp_path.joinpath("out", "index.html").read_text())["episodes"]
    assert [row["episode_id"] for row in rows] == [env.episode_id, "second"]


def test_an_id_may_end_like_a_file_where_it_is_said_to_be_live(address: str, showing: Any) -> None:
    with ChatEnv(address) as env:
        env.reset(episode_id="task-7.json", messages=[HELLO])
        url = showing("--live", "task-7.json", "--address", address)
        assert data_of(fetched(url)[1])["episode_id"] == "task-7.json"
        told = view("task-7.json", "--address", address).stderr
    assert told.splitlines()[-1].endswith("where it is the id of a live episode, --live shows it")


def test_a_line_that_was_cut_off_is_told_and_the_others_are_shown(files: Path, tmp_path: Path) -> None:
    cut = files / "a.jsonl"
    cut.write_bytes(cut.read_bytes()[:-9])
    done = view(str(cut), "--html", str(tmp_path / "out"), "--json")
    assert json.loads(done.stdout)["episodes"] == 4
    told = "line 5 is cut off at the end of the file, and is left out"
    assert done.stderr.splitlines()[1:] == [f"chatenv-rl view: {cut}: {told}"]


def test_an_episode_of_a_server_becomes_one_file(env: ChatEnv, address: str, tmp_path: Path) -> None:
    out = tmp_path / "one.html"
    assert view("a:b", "--html", str(out), "--address", address).returncode == 0
    data = data_of(out.read_text())
    assert (data["episode_id"], data["texts"]["72"], data["view"]["data_href"]) == ("a:b", "H", "")
    assert data["segments"][0]["turns"][1]["version"] == "w1"
    assert env.state().step_count == 1


@pytest.mark.usefixtures("env")
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["bytes", "json"])
def test_an_exported_episode_is_shown_by_its_tokenizer(address: str, tmp_path: Path, form: tuple[str, ...]) -> None:
    file, out = tmp_path / ("e.json" if form else "e.bin"), tmp_path / "one.html"
    exported = subprocess.run([*CHATENV, "export", "a:b", "--address", address, *form], capture_output=True, check=True)
    file.write_bytes(exported.stdout)
    assert view(str(file), "--html", str(out), "--tokenizer", "bytes").returncode == 0
    shown = data_of(out.read_text())
    assert view("a:b", "--html", str(out), "--address", address).returncode == 0
    assert shown["segments"] == data_of(out.read_text())["segments"]
    refused = view(str(file), "--html", str(out))
    assert (refused.returncode, "give --tokenizer" in refused.stderr) == (2, True)


def test_a_page_follows_its_server(env: ChatEnv, address: str, showing: Any, chrome: Any) -> None:
    url = showing("--live", "--address", address)
    chrome.get(url)
    assert texts(chrome, ".rows td:nth-child(2)") == ["a:b"]
    chrome.find_element("css selector", ".rows a").click()
    assert len(texts(chrome, ".turn.sampled")) == 1
    chrome.find_element("css selector", ".search").send_keys("Hi")
    wait_until(chrome, "document.querySelector('.found').textContent === '1 of 1'")
    env.step({"role": "user", "content": "Again?"})
    env.step(ChatAction(tokens=[*b"No", 257]))
    env.set_reward({"late": 0.25}, step=3)
    wait_until(chrome, "document.querySelector('.worth b').textContent === '+0.25'")
    assert len(texts(chrome, ".turn.sampled")) == 2
    assert (texts(chrome, ".found"), texts(chrome, ".pinned"), texts(chrome, ".hit")) == (["1 of 1"], ["H"], ["H", "i"])
    chrome.switch_to.active_element.send_keys("?")
    wait_until(chrome, "document.querySelector('.found').textContent === 'not found'")
    chrome.find_element("css selector", ".back").click()
    wait_until(chrome, "document.querySelector('.rows td:nth-child(4)')?.textContent === '+0.25'")
    assert [entry["message"] for entry in chrome.get_log("browser")] == []


def wait_until(chrome: Any, what: str) -> None:
    chrome.execute_async_script(
        f"const done = arguments[0]; const look = () => ({what}) ? done() : setTimeout(look, 50); look()"
    )


def test_pages_are_for_this_machine_and_its_user_alone(files: Path, showing: Any) -> None:
    url = showing(str(files), "--no-open")
    assert urlsplit(url).hostname == "127.0.0.1"
    status, _, headers = fetched(url)
    assert (status, headers["Cache-Control"], headers["X-Content-Type-Options"]) == (200, "no-store", "nosniff")
    assert fetched(urljoin(url, "/"))[0] == 404
    assert fetched(urljoin(url, "/guess/"))[0] == 404
    assert fetched(url, host="evil.example:80")[0] == 403
    for missing in ("nothing", "episode?id=99", "episode?id=x", "episode", "../../etc/passwd"):
        assert fetched(url + missing)[0] == 404
    assert data_of(fetched(url + "episode?id=5")[1])["episode_id"] == "sums-7"


def test_an_episode_that_is_gone_is_shown_as_it_was_last_seen(
    env: ChatEnv, address: str, showing: Any, chrome: Any
) -> None:
    url = showing("--live", "--address", address)
    chrome.get(url)
    chrome.find_element("css selector", ".rows a").click()
    env.close()
    wait_until(chrome, "document.querySelector('.head').textContent.includes('as it was last seen')")
    assert "Hi" in texts(chrome, ".turn.sampled .said-content")
    (row,) = json.loads(fetched(url + "index.json")[1])["episodes"]
    assert (row["episode_id"], row["end"]) == ("a:b", "gone")
    data = data_of(fetched(url + row["href"])[1])
    assert (data["view"]["is_gone"], data["view"]["data_href"], data["texts"]["72"]) == (True, "", "H")
    assert fetched(url + "episode?id=never-seen")[0] == 404


def test_a_server_that_does_not_answer_any_more_is_told(showing: Any) -> None:
    with serve(Settings(listen=("127.0.0.1:0",))) as server:
        url = showing("--live", "--address", server.target)
        assert fetched(url)[0] == 200
    status, told, _ = fetched(url + "index.json")
    assert status == 503
    assert told.startswith("UNAVAILABLE")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("never-was",), 1, "UNAVAILABLE"),
        (("none.jsonl",), 2, "No such file"),
        (("{files}/none.jsonl",), 2, "holds no episode yet"),
        (("{files}/other.json", "--tokenizer", "bytes"), 1, "is no exported episode"),
        (("{files}/notes.txt",), 2, "their names end in .jsonl, .parquet"),
        (("{files}/empty",), 2, "chatenv-rl trajectories"),
        (("{files}/broken",), 2, "line 1 cannot be read"),
        (("{files}", "--html", "{files}/notes.txt"), 2, "name a folder"),
        (("{files}", "--live"), 2, "files do not change"),
        (("--live", "--html", "out"), 2, "give one of them"),
        (("",), 2, "is empty"),
        (("{files}", "--prefix", "a"), 2, "among all live episodes"),
        (("{files}", "--port", "99999"), 2, "give another --port"),
        (("an-id", "--tokenizer", "bytes"), 2, "a server knows its own"),
        (("{files}", "--tokenizer", "/nowhere", "--html", "out"), 2, "does not exist"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(
    files: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    for folder in ("empty", "broken"):
        files.joinpath(folder).mkdir()
    files.joinpath("broken", "a.jsonl").write_text("{}")
    files.joinpath("none.jsonl").write_text("")
    files.joinpath("other.json").write_text('{"a": 1}')
    done = view(*(one.format(files=files) for one in arguments), "--address", "localhost:1")
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr.splitlines()[-1]
    assert all(line.startswith("chatenv-rl view: ") for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr
