"""Finds the examples of the documents, of every `w2w ... --help` and of docstrings."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
DOCUMENTS = ("README.md", "docs/reference.md", "CONTRIBUTING.md")


@dataclass(frozen=True)
class Example:
    """A text that a reader may copy.

    Attributes
    ----------
    where : str
        A file and the number of its block, a command, or the name of what has the docstring.
    language : str
        ``bash``, ``python``, or whatever the document calls it.
    shown : str
        The docstring that it is part of.
    """

    where: str
    language: str
    text: str
    shown: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text.strip().splitlines()[0]}"

    @property
    def lines(self) -> list[str]:
        """The commands of a shell example, without comments; `a && b` are two."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = without_comment(line)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append(" ".join(quoted(word) for word in words[:end]))
                words = words[end + 1 :]
        return found


def without_comment(line: str) -> list[str]:
    """The words of a line before a comment, which begins a word: ``org/people#12`` is one word."""
    comment = re.search(r"(^|\s)#", re.sub(r"'[^']*'|\"[^\"]*\"", lambda quote: "x" * len(quote[0]), line))
    return shlex.split(line if comment is None else line[: comment.start()])


def quoted(word: str) -> str:
    """A word for a shell that may still expand ``*``."""
    return word if re.fullmatch(r"[\w@%+=:,./*>#-]+", word) else shlex.quote(word)


def of_commands() -> list[Example]:
    """One example per command in the epilogs of all commands; a long one has several lines."""
    from w2w_hub.cli import main

    found = []
    for name, command in sorted(main.commands.items()):
        for line in re.sub(r" \\\n +", " ", command.epilog or "").splitlines():
            if line.startswith("  "):
                found.append(Example(f"w2w {name} --help", "bash", line.strip()))
    return found


def of_documents() -> list[Example]:
    """One example per fenced block."""
    return [
        Example(f"{name} block {number}", match[1], match[2])
        for name in DOCUMENTS
        for number, match in enumerate(BLOCK.finditer((ROOT / name).read_text("utf-8")), 1)
    ]


def of_docstrings() -> list[Example]:
    """One example per docstring with ``>>>``."""
    parser, found = doctest.DocTestParser(), []
    for path in sorted((ROOT / "w2w_hub").rglob("*.py")):
        for name, docstring in docstrings(path) if ">>>" in path.read_text("utf-8") else ():
            text = "".join(one.source for one in parser.get_examples(docstring))
            if text:
                found.append(Example(name, "python", text, docstring))
    return found


def module_of(name: str) -> str:
    """The module in a dotted name."""
    parts = name.split(".")
    while not (ROOT.joinpath(*parts).with_suffix(".py").is_file() or ROOT.joinpath(*parts, "__init__.py").is_file()):
        parts.pop()
    return ".".join(parts)


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Dotted names and docstrings of a file's modules, classes and functions."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield name, text
            for child in node.body:
                yield from walk(child, f"{name}.{getattr(child, 'name', '')}")

    yield from walk(ast.parse(path.read_text("utf-8")), module)
