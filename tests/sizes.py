"""Reports the sizes of files and functions, which are a matter of judgement.

python -m tests.sizes
"""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# Above these a reader wants a reason.
MAX_FILE, MAX_FUNCTION = 350, 50


def sizes(folder: str) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the lines of the files below a folder, and those of their functions."""
    files, functions = {}, {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        name, text = str(path.relative_to(ROOT)), path.read_text()
        files[name] = text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                # Without the docstring, which may be as long as it helps.
                first = node.body[1 if ast.get_docstring(node) else 0 :]
                end = first[-1].end_lineno or 0 if first else 0
                start = first[0].lineno if first else 1
                functions[f"{name}:{node.lineno} {node.name}"] = end - start + 1
    return files, functions


def main() -> None:
    """Prints median, 90th percentile and maximum, and what is larger than wanted."""
    for folder in ("autodo_jax", "tests"):
        for kind, found, limit in zip(
            ("files", "functions"), sizes(folder), (MAX_FILE, MAX_FUNCTION), strict=True
        ):
            ordered = sorted(found.values())
            middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 9 // 10]
            print(f"{folder}, {kind}: median {middle}, p90 {high}, max {ordered[-1]}")
            for name, lines in found.items():
                if lines > limit:
                    print(f"  {lines} lines: {name}")


if __name__ == "__main__":
    main()
