"""File actions stay inside the workspace and say what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpc.core.errors import ActionError
from hpc.gym.files import Files


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "recipe.yaml").write_text("anneal: unset\nmix: unset\n")
    return root


@pytest.fixture
def files(workspace: Path) -> Files:
    return Files(workspace, max_bytes=10_000, shown_characters=3_000)


def _refusal(call: object, *arguments: object) -> str:
    with pytest.raises(ActionError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.message


def test_listing(files: Files, workspace: Path) -> None:
    (workspace / "data").mkdir()
    (workspace / ".hidden").touch()

    assert files.listing(".") == "data/\nrecipe.yaml"
    assert files.listing("/workspace", show_hidden=True) == ".hidden\ndata/\nrecipe.yaml"
    assert files.listing(str(workspace)) == "data/\nrecipe.yaml"
    assert files.listing("data") == "(empty)"
    assert _refusal(files.listing, "nowhere") == "no such folder: nowhere"
    assert _refusal(files.listing, "recipe.yaml") == "recipe.yaml is not a folder"


@pytest.mark.parametrize("path", ["..", "../outside.txt", "/etc/passwd", "/workspace/../outside.txt", "link", "to/x"])
def test_paths_that_lead_outside_are_refused(files: Files, workspace: Path, path: str) -> None:
    secret = workspace.parent / "outside.txt"
    secret.write_text("secret")
    (workspace / "link").symlink_to(secret)
    (workspace / "to").symlink_to(workspace.parent)

    for call, rest in ((files.show, ()), (files.listing, ()), (files.edit, (1, -1, "x")), (files.create, ("x",))):
        assert _refusal(call, path, *rest) == f"{path} is outside the workspace"
    assert secret.read_text() == "secret"


def test_a_link_inside_the_workspace_is_followed(files: Files, workspace: Path) -> None:
    (workspace / "alias").symlink_to("recipe.yaml")

    files.edit("alias", 1, 1, "anneal: 450C")

    assert (workspace / "recipe.yaml").read_text() == "anneal: 450C\nmix: unset\n"
    assert (workspace / "alias").is_symlink()


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "loop", "bad\ud800name"])
def test_unusable_paths_are_refused(files: Files, workspace: Path, path: str) -> None:
    (workspace / "loop").symlink_to("loop")

    assert _refusal(files.show, path)
    assert _refusal(files.create, path, "x")


def test_showing_around_a_line(files: Files, workspace: Path) -> None:
    (workspace / "long.txt").write_text("".join(f"row {n}\n" for n in range(1, 301)))

    assert files.show("recipe.yaml") == "recipe.yaml (2 lines)\n1: anneal: unset\n2: mix: unset"
    assert files.show("long.txt", 150, 3) == "long.txt (300 lines)\n149: row 149\n150: row 150\n151: row 151"
    assert files.show("long.txt", 300, 2) == "long.txt (300 lines)\n299: row 299\n300: row 300"
    assert len(files.show("long.txt").split("\n")) == 101
    assert _refusal(files.show, "long.txt", 301) == "long.txt has 300 lines, there is no line 301"


def test_what_is_shown_is_bounded(files: Files, workspace: Path) -> None:
    (workspace / "wide.txt").write_text(("x" * 990 + "\n") * 9)
    (workspace / "line.txt").write_text("y" * 9000)

    assert len(files.show("wide.txt")) < 3100
    assert files.show("wide.txt").startswith("wide.txt (9 lines)\n1: xxx")
    assert len(files.show("line.txt")) < 3100


@pytest.mark.parametrize(
    ("start", "end", "content", "said", "after"),
    [
        (2, 2, "mix: ethanol", "2-2 edited, 3 lines", ["a", "mix: ethanol", "c"]),
        (2, 2, "x\ny", "2-3 edited, 4 lines", ["a", "x", "y", "c"]),
        (2, 2, "x\n", "2-2 edited, 3 lines", ["a", "x", "c"]),
        (1, -1, "z", "1-1 edited, 1 lines", ["z"]),
        (2, -1, "z", "2-2 edited, 2 lines", ["a", "z"]),
        (-1, -1, "z", "4-4 edited, 4 lines", ["a", "b", "c", "z"]),
        (4, -1, "z", "4-4 edited, 4 lines", ["a", "b", "c", "z"]),
        (2, 3, "", "2-1 edited, 1 lines", ["a"]),
        (2, 2, "\n", "2-2 edited, 3 lines", ["a", "", "c"]),
    ],
)
def test_editing(
    files: Files, workspace: Path, start: int, end: int, content: str, said: str, after: list[str]
) -> None:
    (workspace / "f").write_text("a\nb\nc\n")

    assert files.edit("f", start, end, content) == f"f lines {said}"
    assert (workspace / "f").read_text() == "".join(f"{line}\n" for line in after)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (5, -1), (2, 1), (1, 4), (2, 0)])
def test_ranges_that_do_not_exist_change_nothing(files: Files, workspace: Path, start: int, end: int) -> None:
    (workspace / "f").write_text("a\nb\nc\n")

    assert "f has 3 lines" in _refusal(files.edit, "f", start, end, "x")
    assert (workspace / "f").read_text() == "a\nb\nc\n"


def test_editing_an_absent_file_makes_it(files: Files, workspace: Path) -> None:
    assert files.edit("sub/new.txt", 1, -1, "one\ntwo") == "sub/new.txt lines 1-2 edited, 2 lines"
    assert (workspace / "sub/new.txt").read_text() == "one\ntwo\n"


def test_editing_keeps_mode_and_foreign_bytes(files: Files, workspace: Path) -> None:
    script = workspace / "run.sh"
    script.write_bytes(b"#!/bin/sh\necho caf\xe9\n")
    script.chmod(0o755)

    assert "2: echo caf�" in files.show("run.sh")
    files.edit("run.sh", 1, 1, "#!/bin/bash")

    assert script.read_bytes() == b"#!/bin/bash\necho caf\xe9\n"
    assert script.stat().st_mode & 0o777 == 0o755


def test_creating_and_searching(files: Files, workspace: Path) -> None:
    assert files.create("notes/plan.md", "one\ntwo\nthree\n") == "notes/plan.md created, 3 lines"
    assert files.search("notes/plan.md", "t") == "notes/plan.md (2 matches)\n2: two\n3: three"
    assert files.search("notes/plan.md", "[") == "notes/plan.md (0 matches)"


def test_what_is_no_text_file_is_refused(files: Files, workspace: Path) -> None:
    (workspace / "model.bin").write_bytes(b"\0\1\2")
    (workspace / "big.txt").write_text("x" * 10_001)
    os.mkfifo(workspace / "pipe")
    (workspace / "folder").mkdir()

    assert _refusal(files.show, "model.bin") == "model.bin is a binary file"
    assert "more than 10000 bytes" in _refusal(files.show, "big.txt")
    assert _refusal(files.show, "pipe") == "pipe is not a file"
    assert _refusal(files.show, "folder") == "folder is not a file"
    assert _refusal(files.create, "folder", "x") == "folder is not a file"
    assert _refusal(files.edit, "pipe", 1, -1, "x") == "pipe is not a file"
    assert "at most 10000" in _refusal(files.create, "large", "x" * 10_001)
    assert _refusal(files.create, "odd", "\ud800") == "the content is not valid Unicode"
    assert _refusal(files.create, "recipe.yaml/x", "y").startswith("cannot write recipe.yaml/x")


def test_a_name_that_could_forge_lines_is_made_plain(files: Files, workspace: Path) -> None:
    (workspace / "a\nrecipe.yaml").touch()

    assert files.listing(".").count("\n") == 1
