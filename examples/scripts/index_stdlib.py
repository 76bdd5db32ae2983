"""Index every Python source file of the running interpreter's standard library.

A script like any other: it knows nothing of Tailrace. It parses some thousands of files,
tells what it does as it goes, and writes the index as JSON where it is told to.

    tailrace run examples/scripts/index_stdlib.py /tmp/index.json
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


def sources(root: Path) -> list[Path]:
    """The library's own files: what is installed beside it belongs to others."""
    return sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)


def names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What a module defines, as (kind, name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield "class", node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "function", node.name


def main() -> int:
    """Index, tell, and answer with an exit code: 3 if there was nothing to index."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    root = Path(sysconfig.get_path("stdlib"))
    files = sources(root)
    if not files:
        print(f"No sources below {root}", file=sys.stderr)
        return 3
    print(f"Indexing {len(files)} files below {root.name}")
    began = time.perf_counter()
    index: dict[str, list[str]] = {}
    found: Counter[str] = Counter()
    broken = 0
    for number, path in enumerate(files, 1):
        where = str(path.relative_to(root))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old syntax in the library's own tests
                tree = ast.parse(path.read_bytes(), filename=where)
        except (SyntaxError, ValueError, RecursionError) as error:
            broken += 1
            print(f"{where}: {type(error).__name__}", file=sys.stderr)
            continue
        defined = list(names(tree))
        found.update(kind for kind, _ in defined)
        index[where] = [name for _, name in defined]
        print(f"[{number}/{len(files)}] {where}: {len(defined)} names")
    took = time.perf_counter() - began
    if target is not None:
        target.write_text(json.dumps(index, indent=1), encoding="utf-8")
        print(f"Wrote {target}")
    print(
        f"{len(index)} files, {found['class']} classes, {found['function']} functions, "
        f"{broken} that do not parse, in {took:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
