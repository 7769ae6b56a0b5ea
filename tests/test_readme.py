"""The README as a newcomer reads it: from the top, running what is printed."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import ChatAction, ChatEnv

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server import Settings, serve
from chatenv_server.commands import cli
from chatenv_server.settings.settings import read_settings
from tests.engine.archetypes import ARCHETYPES
from tests.engine.own_tokenizers import own_bytes

CHECKOUT = Path(__file__).resolve().parent.parent
README = CHECKOUT.joinpath("README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
GAME = 2
"""Blocks of the first screen: a task, and who plays it."""
TEMPLATE = "a default system prompt, results of tools in one user turn"
"""The one of ours that writes tools and calls as the README's model does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the place of the README's model: a tokenizer of ours, and a model of the same kind that knows nothing."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / MODEL.rpartition("/")[2]
    tokenizer = own_bytes(template=ARCHETYPES[TEMPLATE])
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.Qwen2Config(vocab_size=len(tokenizer), num_hidden_layers=1, **sizes)
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serve(Settings(listen=("127.0.0.1:0",), tokenizer=str(folder))) as server:
        yield server.addresses[0]


def run(block: str, names: dict[str, Any], address: str, folder: Path) -> None:
    """Run a block as it is printed, but for where the server is and where the model is."""
    here = block.replace("localhost:50051", address).replace(MODEL, str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(here, "<README.md>", "exec"), names)


def containing(text: str) -> str:
    found: list[str] = [block for block in PYTHON if text in block]
    (block,) = found
    return block


def test_the_game_of_the_first_screen_is_served_as_printed_and_played_in_one_round_trip_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = [line for line in SHELL if "game:Guess" in line]
    path, make, target, arguments = shlex.split(line)
    assert (path, make, target) == ("PYTHONPATH=.", "make", "serve")
    task, play = PYTHON[:GAME]
    tmp_path.joinpath("game.py").write_text(task, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = read_settings([*shlex.split(arguments.removeprefix("ARGS=")), "--listen", "127.0.0.1:0"], {})
    names: dict[str, Any] = {}
    with serve(settings) as server:
        run(play, names, server.target, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == names["result"].observation.step_count <= 7
    assert [line.split(" ", 2)[2] for line in lines[:-1]] == ["{'found': 0.0}"] * (len(lines) - 1)
    assert lines[-1].endswith("{'found': 1.0}")
    assert names["result"].done


def test_every_other_block_runs_as_it_is_printed_one_after_the_other(address: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(PYTHON[0], "<README.md>", "exec"), names)
    for block in PYTHON[GAME:]:
        run(block, names, address, folder)
    assert [len(trajectory.samples()) for trajectory in names["trajectories"]] == [1] * 4
    assert [message["role"] for message in names["env"].state.history_messages] == ["system", "user", "assistant"]


def test_what_is_trained_on_is_what_was_sampled(address: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    run(containing("def sample"), names, address, folder)
    run(containing("loss.backward"), names, address, folder)
    sampled = names["row"].logprobs[names["row"].loss_mask]
    computed = names["logprobs"][names["mask"][1:]].detach().numpy()
    assert len(sampled) > 2
    assert abs(sampled - computed).max() < 1e-4


def test_the_loop_with_tools_answers_the_calls_of_the_model(address: str, folder: Path) -> None:
    encode = own_bytes(template=ARCHETYPES[TEMPLATE]).backend_tokenizer.encode
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>'
    script = [encode(text, add_special_tokens=False).ids for text in (call, "Five.<|im_end|>")]
    names: dict[str, Any] = {"ChatEnv": ChatEnv, "stop_ids": []}
    names["sample"] = lambda _prompt, _stop_ids: ChatAction(tokens=script.pop(0))
    run(containing("tools=[add]"), names, address, folder)
    messages = names["result"].observation.messages
    assert [message["role"] for message in messages[-4:]] == ["user", "assistant", "tool", "assistant"]
    assert messages[-2]["content"] == "5"
    assert names["result"].observation.fidelity == ()


def test_a_turn_without_its_stop_token_is_reported_as_the_readme_says(address: str) -> None:
    with ChatEnv(address) as env:
        env.reset(messages=[{"role": "user", "content": "What is 2 + 3?"}])
        env.step(ChatAction(tokens=[20]))
        reports = env.step({"role": "user", "content": "Times 7?"}).observation.fidelity
    assert [report.kind.name for report in reports] == ["TRUNCATED_TURN_CLOSED"]
    assert "`TRUNCATED_TURN_CLOSED`" in README


def test_the_transform_rewards_the_right_answer_on_the_server_that_is_started_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = [line for line in SHELL if "my_task" in line]
    path, make, target, arguments = shlex.split(line)
    assert (path, make, target) == ("PYTHONPATH=.", "make", "serve")
    tmp_path.joinpath("my_task.py").write_text(containing("def five"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = read_settings([*shlex.split(arguments.removeprefix("ARGS=")), "--listen", "127.0.0.1:0"], {})
    with serve(settings) as server, ChatEnv(server.target) as env:
        env.reset()
        assert env.step({"role": "user", "content": "What is 2 + 3?"}).reward is None
        result = env.step(ChatAction(tokens=[53, 257]))
        assert (result.reward, result.done) == (1.0, True)


def test_the_doctor_passes_the_template_that_it_is_asked_about(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = [line for line in SHELL if line.startswith("chatenv-rl doctor")]
    assert cli.main(shlex.split(line.replace(MODEL, str(folder)))[1:]) == 0
    assert "Every step is exact, or says why not." in capsys.readouterr().out


def test_every_target_of_make_is_one() -> None:
    makefile = CHECKOUT.joinpath("Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`|=[.] )make ([a-z][a-z-]+)", README, re.MULTILINE))
    assert named >= {"demo", "serve", "test"}
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_no_line_of_the_shell_is_left_untried() -> None:
    """Each is run above, by hand (`test_by_hand.py`), or in the place of a newcomer (`.ci/run`)."""
    tried = ("make ", "PYTHONPATH=. make serve", "source .venv/bin/activate", "chatenv-rl doctor", "call")
    assert [line for line in SHELL if not line.startswith(tried)] == []


def test_every_command_for_people_understands_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    names = re.findall(r"^\| `chatenv-rl (\w+)", README, re.MULTILINE)
    assert names
    for name in names:
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        assert f"chatenv-rl {name}" in capsys.readouterr().out
