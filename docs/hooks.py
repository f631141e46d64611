"""What the site has besides the files of docs/: pages made from other files.

README.md and its like become pages, each program of examples/ becomes one, the
notebooks are shown with their outputs, and the command line and the configuration are
described by the package itself.
"""

import ast
import base64
import contextlib
import importlib
import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import nbclient
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
_COPIES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the examples in the navigation."""
    for entry in config.nav or []:
        if entry.get("Examples") == "EXAMPLES":
            entry["Examples"] = [
                {name.replace("_", " ").capitalize(): f"examples/{name}.md"}
                for name in _examples()
            ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from other files."""
    for path, content in [*_pages(), *_notebooks()]:
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Keeps the text alone of links to files that the site does not have."""
    here = ROOT / (_COPIES.get(page.file.src_uri) or f"docs/{page.file.src_uri}")

    def replaced(match: re.Match) -> str:
        text, target = match.groups()
        if target.startswith(("http:", "https:", "#")):
            return match.group()
        path, _, anchor = target.partition("#")
        file = (here.parent / path).resolve()
        known = {ROOT / copied: page for page, copied in _COPIES.items()}
        end = f"#{anchor}" if anchor else ""
        if file in known:
            return f"[{text}]({known[file]}{end})"
        if file.is_relative_to(ROOT / "docs"):
            if here.parent == ROOT:
                return f"[{text}]({file.relative_to(ROOT / 'docs')}{end})"
            return match.group()
        return text

    markdown = markdown.replace("](docs/images/", "](images/")
    return _LINK.sub(replaced, markdown)


def _examples() -> list[str]:
    return sorted(path.stem for path in ROOT.glob("examples/*.py"))


def _pages() -> Iterator[tuple[str, str]]:
    for path, source in _COPIES.items():
        yield path, (ROOT / source).read_text()
    for name in _examples():
        source = (ROOT / f"examples/{name}.py").read_text()
        yield f"examples/{name}.md", _example(name, source)
    yield "reference/command-line.md", _command_line()
    yield "reference/configuration.md", _configuration()


def _notebooks() -> Iterator[tuple[str, str | bytes]]:
    """Runs the notebooks; yields a page for each, and its pictures.

    Raises:
      CellExecutionError: a cell raises.
    """
    for path in sorted(ROOT.glob("docs/notebooks/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=300).execute()
        parts: list[str] = []
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "markdown":
                parts.append(cell.source)
                continue
            parts.append(f"```python\n{cell.source}\n```")
            for output in cell.outputs:
                if output.output_type == "stream" and output.name == "stdout":
                    parts.append(f"```text\n{output.text.strip()}\n```")
                elif picture := output.get("data", {}).get("image/png"):
                    name = f"{path.stem}-{number}.png"
                    yield f"notebooks/{name}", base64.b64decode(picture)
                    parts.append(f"![Output of the cell above]({name})")
        yield f"notebooks/{path.stem}.md", "\n\n".join([*parts, ""])


def _example(name: str, source: str) -> str:
    """The docstring as text, with what is indented as code, then the program."""
    module = ast.parse(source)
    said = ast.get_docstring(module) or ""
    code = source.split('"""', 2)[2].lstrip()
    title = name.replace("_", " ").capitalize()
    return f"# {title}\n\n{said}\n\n```python\n{code}```\n"


def _command_line() -> str:
    programs = importlib.import_module("autodo_jax.programs.autodo")
    lines = ["# Command line", "", "```text", programs.help_text(), "```", ""]
    for name, (module, _) in programs.PROGRAMS.items():
        if name == "train":
            flags = importlib.import_module("autodo_jax.command_line")
            text = flags.help_text().partition("\nfields,")[0]
            text += "\nFields of the configuration: see there."
        else:
            text = _help_of(module)
        lines += [f"## autodo {name}", "", "```text", text.strip(), "```", ""]
    return "\n".join(lines)


def _help_of(module: str) -> str:
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        found.main(["--help"])
    return output.getvalue()


def _configuration() -> str:
    described = importlib.import_module("autodo_jax.config.help").described()
    lines = [
        "# Configuration",
        "",
        "The fields as `autodo_jax/config/fields.py` declares them. A flag "
        "`--config.FIELD=VALUE` changes one; experiment files and methods have other "
        "defaults.",
        "",
        "| field | default | meaning |",
        "|---|---|---|",
    ]
    for field in described:
        comment = field.comment.replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{field.default}` | {comment} |")
    return "\n".join([*lines, ""])
