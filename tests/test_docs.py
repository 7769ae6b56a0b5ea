"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import chatenv_client
from chatenv_client import ChatEnvError, FailureKind, Reason, ResetOptions, errors

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

import chatenv_server
from chatenv_server.commands import cli
from chatenv_server.doctor.scenarios import SCENARIOS
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
from chatenv_server.settings.settings import settings_table
from tests.conformance import CONFORMANCE
from tests.engine.archetypes import ARCHETYPES
from tests.engine.own_tokenizers import OWN
from tools.write_docs import meanings, reset_options_table, up_to_date

CHECKOUT = Path(__file__).resolve().parent.parent
README = CHECKOUT / "README.md"
DOCUMENTS = sorted([README, *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("docs/trainers/*.md")])


def text_of(name: str) -> str:
    return CHECKOUT.joinpath(name).read_text(encoding="utf-8")


# Links.


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not document.parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_heading_leads_to_one(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", document.read_text(encoding="utf-8"))
    pages = [(document.parent / page if page else document, anchor) for page, anchor in links]
    assert [(page.name, anchor) for page, anchor in pages if anchor not in anchors_of(page)] == []


def anchors_of(page: Path) -> set[str]:
    """Of its headings, as a forge names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_document_can_be_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)", text_of("README.md")))
    assert linked == {f"docs/{path.name}" for path in CHECKOUT.glob("docs/*.md")}


def test_every_page_of_a_trainer_can_be_reached_from_the_page_of_trainers() -> None:
    linked = set(re.findall(r"\]\(trainers/([^)#]+\.md)", text_of("docs/trainers.md")))
    assert linked == {path.name for path in CHECKOUT.glob("docs/trainers/*.md")}


# Tables.


def test_the_table_of_settings_stands_where_operators_look_and_nowhere_else() -> None:
    assert [path.name for path in DOCUMENTS if settings_table() in path.read_text(encoding="utf-8")] == [
        "operations.md"
    ]


def test_the_table_of_resets_options_has_every_keyword() -> None:
    rows = re.findall(r"^\| `(\w+)` \| \S", reset_options_table(), re.MULTILINE)
    assert rows == list(ResetOptions.__annotations__)
    assert reset_options_table() in text_of("README.md"), "run `make docs`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_table_that_is_made_from_the_code_is_as_the_code_has_it(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert up_to_date(text) == text, "run `make docs`"


def errors_in_the_code() -> set[tuple[str, str, str]]:
    """(status, reason, exception) of everything that is raised."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ChatEnvError)]
    found = {(kind.code, kind.default_reason.value, kind.__name__) for kind in kinds if kind is not ChatEnvError}
    found -= {("NOT_FOUND", "EPISODE_UNKNOWN", "EpisodeNotFoundError")}  # a base, never raised itself
    invalid = {reason for reason in reasons_in_the_code() if reason != "INTERNAL"}
    return (
        found
        | {("INVALID_ARGUMENT", reason, "InvalidRequestError") for reason in invalid}
        | {("INTERNAL", "INTERNAL", "UnexpectedStatusError")}
    )


def reasons_in_the_code() -> Iterator[str]:
    """Every reason that is given where an exception is raised."""
    for package in (Path(chatenv_client.__file__).parent, Path(chatenv_server.__file__).parent):
        for source in set(package.rglob("*.py")) - {Path(errors.__file__)}:
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                    yield str(node.value.value)
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Reason" and node.attr.isupper():
                    yield node.attr


def test_the_table_of_errors_names_every_error_and_no_other() -> None:
    documented = set()
    for section in text_of("docs/errors.md").split("\n## ")[1:]:
        status = section.split("\n", 1)[0]
        rows = re.findall(r"^\| `([A-Z_]+)` \| `(\w+)` \|", section, re.MULTILINE)
        documented |= {(status, reason, exception) for reason, exception in rows}
    assert documented == errors_in_the_code()


def test_every_reason_says_what_happened_and_what_to_do() -> None:
    said = meanings()
    assert list(said) == list(Reason)
    assert [reason for reason, text in said.items() if not re.fullmatch(r"[A-Z`].+[.] [A-Z`].+[.]", text)] == []


def test_every_kind_of_failure_is_told_with_what_broke() -> None:
    section = text_of("docs/errors.md").split("\n## When an episode breaks")[1]
    rows = re.findall(r"^\| `([a-z]+)` \| [A-Z].+[.] \|$", section, re.MULTILINE)
    assert rows == list(FailureKind)


def test_every_status_is_some_group_of_the_operators() -> None:
    every = set(re.findall(r"^## ([A-Z_]+)$", text_of("docs/errors.md"), re.MULTILINE))
    section = text_of("docs/operations.md").split("\n## Statuses")[1].split("\n## ")[0]
    grouped = re.findall(r"`([A-Z_]+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    assert sorted(grouped) == sorted(every)


def lines_in_the_code() -> dict[str, set[str]]:
    """Every message that the server logs at INFO or above, with the names of its fields."""
    found: dict[str, set[str]] = {}
    for source in Path(chatenv_server.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in LOGGING:
                texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                fields = [key for value in node.keywords for key in ast.walk(value) if isinstance(key, ast.Dict)]
                names = {str(ast.literal_eval(key)) for each in fields for key in each.keys if key is not None}
                found.setdefault(str(texts[0]), set()).update(names)
    return found


LOGGING = {f"_LOG.{name}" for name in ("log", "info", "warning", "error", "exception", "critical")}


def test_the_table_of_log_lines_has_every_line_with_its_fields_and_no_other() -> None:
    section = text_of("docs/operations.md").split("\n## Log")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(.+?)` \| \w+ \| (?!the same)(.*?) \|", section, re.MULTILINE)
    assert {message: set(re.findall(r"`(\w+)`", fields)) for message, fields in rows} == lines_in_the_code()


def test_every_limit_of_the_settings_is_in_the_table_of_limits() -> None:
    section = text_of("docs/operations.md").split("\n## Limits")[1].split("\n## ")[0]
    limits = {flag for flag in re.findall(r"`(--[a-z-]+)`", settings_table()) if re.search("--max-|-timeout", flag)}
    assert limits <= set(re.findall(r"`(--[a-z-]+)`", section))


def test_the_pages_for_operators_name_no_flag_that_does_not_exist() -> None:
    known = set(re.findall(r"`(--[a-z-]+)`", settings_table()))
    for page in ("docs/operations.md", "docs/security.md", "docs/errors.md"):
        prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
        named = {flag for code in re.findall(r"`([^`]+)`", prose) for flag in re.findall(r"--[a-z][a-z-]+", code)}
        assert named & known, page
        assert named - known <= {"--address"}, page


def test_the_readme_counts_the_conversations_of_the_doctor() -> None:
    assert f"plays {len(SCENARIOS)} conversations" in " ".join(text_of("README.md").split())


def test_the_readme_counts_what_a_clean_clone_tests() -> None:
    tested = f"{len(OWN)} small ones of our own and {len(ARCHETYPES)} chat templates of our own"
    assert tested in " ".join(text_of("README.md").split())


def test_the_readme_shows_every_command_for_people() -> None:
    shown = set(re.findall(r"`\S*chatenv-rl ([a-z]+)", text_of("README.md")))
    assert {command.NAME for command in cli._COMMANDS} <= shown


@pytest.mark.timeout(300)  # more than a hundred templates are loaded
def test_every_feature_that_a_server_may_name_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", text_of("docs/wire.md").split("\n## Features")[1], re.MULTILINE))
    recorded = [path.read_text(encoding="utf-8") for path in sorted(CONFORMANCE.glob("templates/*.jinja"))]
    engines = [TokenEngine.load(stand_in(text)) for text in (*ARCHETYPES.values(), *recorded)]
    named = {word for engine in engines for word in engine.features}
    assert named <= explained
    assert explained - named <= {"plain_path", "plain_template"}


# Examples.


def python_blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(document), re.DOTALL)


def test_the_server_of_the_page_for_operators_starts() -> None:
    (block, _) = python_blocks("docs/operations.md")
    exec(compile(block, "operations.md", "exec"), {})
