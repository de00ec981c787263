"""The commands and options that the documents name are there: blocks are read line by line, the parsers are asked."""

import re
import shlex
from pathlib import Path

import pytest
from UNetSegmentLib import cli

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
PROGRAM = re.compile(r"(?:^|[\s/\\])(unetsegment(?:-train)?)(?=\s)(?! stands)(.*)")


def commands(text):
    """(program, words) of every command line in the blocks and inline code of a page; words are alternatives where ``|`` is."""
    blocks = BLOCK.findall(text)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    lines += INLINE.findall(BLOCK.sub("", text))
    for line in lines:
        found = PROGRAM.search(line.split(" #")[0].split("#SBATCH")[0])
        if found and "error" not in line.split(":")[0]:
            yield found[1], shlex.split(found[2].replace("...", "").replace("[", " ").replace("]", " "), posix=True)


def argparse_options(parser, words):
    """Options of the sub-command that the words begin with, and how often they may have words without a dash."""
    names, used = set(), 0
    for word in words:
        actions = [a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict)]
        if not actions or word.startswith("-"):
            break
        assert word in actions[0].choices, f"there is no command '{word}'"
        parser, used = actions[0].choices[word], used + 1
    names |= {name for action in parser._actions for name in action.option_strings}
    return names, words[used:]


def typer_options(words):
    """Options of a command of ``unetsegment-train``, and the rest of the words."""
    training = pytest.importorskip("unetsegment_training.cli")
    import typer

    known = typer.main.get_command(training.app).commands
    assert words[0] in known, f"there is no command '{words[0]}'"
    names = {name for parameter in known[words[0]].params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names | {"--help"}, words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_options_are_there(page):
    for program, words in commands(page.read_text("utf-8")):
        if not words or words[0] in ("|", "-->"):
            continue
        for first in words[0].split("|"):
            alternative = [first, *words[1:]]
            try:
                if program == "unetsegment":
                    names, rest = argparse_options(cli._parser(), alternative)
                else:
                    names, rest = typer_options(alternative)
            except AssertionError as error:
                raise AssertionError(f"{page.name}: '{program} {' '.join(words)}': {error}") from None
            for word in rest:
                option = word.split("=")[0]
                if re.match(r"--?[a-z]", option) and len(option) > 1:
                    for one in option.split("/"):
                        assert one in names, f"{page.name}: '{program} {first}' has no option '{one}'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    gone = [to for to in links if "://" not in to and not (page.parent / to.partition("#")[0]).exists()]
    assert gone == []


def test_the_reader_of_pages_sees_what_is_wrong(tmp_path):
    page = tmp_path / "page.md"
    for line, words in [
        ("```bash\n$ .venv/bin/unetsegment segment IMAGE \\\n   --no-such OUT\n```\n", "has no option '--no-such'"),
        ("Run `unetsegment-train fit DATA RUN --epoch 5`.", "has no option '--epoch'"),
        ("```\nunetsegment models fetch NAME\n```\n", "there is no command 'fetch'"),
    ]:
        page.write_text(line)
        with pytest.raises(AssertionError, match=re.escape(words)):
            test_commands_and_options_are_there(page)
