"""What pip asks for the name of a source archive, without which it does not store it.

The archive's own backend would want cmake, and run what the archive says. We only want the file.
"""

from pathlib import Path

NAME = "llama_cpp_python"
VERSION = "0.3.36"


def prepare_metadata_for_build_wheel(folder: str, settings: object = None) -> str:
    """Write what a package says of itself; the folder's name."""
    name = f"{NAME}-{VERSION}.dist-info"
    about = Path(folder) / name
    about.mkdir()
    text = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n"
    (about / "METADATA").write_text(text, encoding="utf-8")
    return name
