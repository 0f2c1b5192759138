"""The directions of imports, over the real import graph.

Two halves that never import each other stand on the rooms that both need:

    cli
    api, progress, reporting, status, doctor
    synthesis half   │   training half
    models, files of rows, dataset versions, hub
    errors, records, configuration, …

A room may import its own row and the rows below it. Every file and folder right under
`nanodistill/` is in one row: a new one has to be put somewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import nanodistill

ROWS = {
    "command": {"cli", "__main__"},
    "whole": {"api", "console", "publish", "reporting", "status", "students", "system_report"},
    "synthesis": {
        "curation", "engine", "journal", "prompts", "providers", "seeds", "synthesis",
    },
    "training": {"evaluation", "exporting", "serve", "training"},
    "shared": {
        "data_files", "dataset", "hub", "hub_datasets", "linear_classifier", "metrics", "models",
        "row_forms",
    },
    "foundation": {
        "config", "errors", "events", "formatting", "frozen_gc", "hardware", "interrupts",
        "jsontext", "plugins", "prevent_sleep", "run_dir", "secrets", "stats", "text_files",
        "thinking", "types", "values",
    },
}  # fmt: skip
BELOW = {
    "command": {"whole", "synthesis", "training", "shared", "foundation"},
    "whole": {"synthesis", "training", "shared", "foundation"},
    "synthesis": {"shared", "foundation"},
    "training": {"shared", "foundation"},
    "shared": {"foundation"},
    "foundation": set[str](),
}
# Libraries that only these rooms import: synthesis runs without MLX, training without LiteLLM.
MLX = {"models", "training", "evaluation", "exporting", "serve", "providers.local_mlx"}
IMPORTERS = {
    "litellm": {"providers"},
    "instructor": {"providers"},
    "mlx": MLX,
    "mlx_lm": MLX,
    "rich": {"cli", "console"},
    "click": {"cli"},
}
PACKAGE = Path(nanodistill.__file__).parent


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("nanodistill", include_external_packages=True, cache_dir=None)


def inner(module: str) -> str:
    return module.removeprefix("nanodistill").removeprefix(".")


def row(module: str) -> str:
    room = inner(module).split(".")[0]
    found = [name for name, rooms in ROWS.items() if room in rooms]
    assert len(found) == 1, f"put `{room}` into one of ROWS"
    return found[0]


def imports(graph: grimp.ImportGraph) -> Iterator[tuple[str, str]]:
    """Every import between two of our modules; the package itself only names what it exports."""
    for module in sorted(graph.find_descendants("nanodistill")):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            if imported.startswith("nanodistill."):
                yield module, imported


def within(module: str, rooms: set[str]) -> bool:
    return any(f"{inner(module)}.".startswith(f"{room}.") for room in rooms)


def test_every_room_is_in_one_row() -> None:
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert {"config", "errors", "models"} <= rooms
    placed = [room for rooms in ROWS.values() for room in rooms]
    assert sorted(placed) == sorted(set(placed))
    assert rooms - {"__init__"} - set(placed) == set()


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {p.parent for p in PACKAGE.rglob("*.py")}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


def test_imports_point_down(graph: grimp.ImportGraph) -> None:
    wrong = [
        f"{module} ({row(module)}) imports {imported} ({row(imported)})"
        for module, imported in imports(graph)
        if row(imported) not in BELOW[row(module)] | {row(module)}
    ]
    assert wrong == []


def test_no_two_rooms_import_each_other(graph: grimp.ImportGraph) -> None:
    """Also not inside a function: of two rooms one is above the other."""
    arrows = {
        (inner(module).split(".")[0], inner(imported).split(".")[0])
        for module, imported in imports(graph)
    }
    assert sorted(f"{a}, {b}" for a, b in arrows if a < b and (b, a) in arrows) == []


def test_errors_and_records_are_the_bottom(graph: grimp.ImportGraph) -> None:
    bottom = {"nanodistill.errors", "nanodistill.types"}
    wrong = [
        f"{module} imports {imported}"
        for module, imported in imports(graph)
        if module in bottom and imported not in bottom
    ]
    assert wrong == []


def test_the_teacher_knows_local_models_in_one_place(graph: grimp.ImportGraph) -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, imported in imports(graph)
        if row(module) == "synthesis"
        and within(imported, {"models"})
        and not within(module, {"providers.local_mlx"})
    ]
    assert wrong == []


@pytest.mark.parametrize("library", sorted(IMPORTERS))
def test_a_library_is_imported_by_its_own_rooms_alone(
    graph: grimp.ImportGraph, library: str
) -> None:
    if library not in graph.modules:
        return
    importers = graph.find_modules_that_directly_import(library)
    assert [m for m in sorted(importers) if not within(m, IMPORTERS[library])] == []
