"""`loss-search data check` and `schema`: what a file holds, as its family reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli import ENVIRONMENT

from search.cli import main
from trainables import FAMILIES, family_named
from trainables.data import Field

FOULS = Path(__file__).resolve().parents[2] / "shared" / "data" / "multitask" / "wyscout_fouls.npz"


@pytest.fixture
def grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve 4x4 grids in three groups: in each 14 cells of colour 0, and one or two of colour 3 and 5."""
    monkeypatch.chdir(tmp_path)
    cells = np.zeros((12, 4, 4), np.uint8)
    cells[:, 0, 0], cells[:, 0, 1] = 3, 5
    cells[:4, 0, 1] = 3
    # In training (rows 0 to 5): 4 x 2 + 2 x 1 = 10 cells of colour 3 and 2 of colour 5.
    cells[np.arange(12), 3, np.arange(12) % 4] = cells[np.arange(12), 0, 0] * (np.arange(12) >= 6)
    split, group = np.repeat([0, 1, 2], [6, 3, 3]), np.repeat(["a", "b", "c", "d"], 3)
    np.savez_compressed("grids.npz", grids=cells, split=split, group=group)
    return tmp_path / "grids.npz"


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of the standard output, with single spaces."""
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_good_file_is_shown_by_splits_groups_shapes_and_labels(grids: Path, capsys) -> None:
    assert main(["data", "check", "beta_vae", "grids.npz"]) == 0
    lines = said(capsys)
    assert lines[0] == "grids.npz: can be read by beta_vae"
    assert "examples 6 train, 3 val, 3 test" in lines
    assert "groups 2 train, 1 val, 1 test (different values of 'group' in the file)" in lines
    assert "grid int64 [6, 16, 16] [3, 16, 16] [3, 16, 16]" in lines
    # 1,536 cells in training, of which 10 and 2 are coloured: shares and ratio by hand.
    assert "0 1,524 759 759 99.22%" in lines
    assert "3 10 6 6 0.65%" in lines and "5 2 3 3 0.13%" in lines and "1 0 0 0 0.00%" in lines
    assert "imbalance 762:1 (most to fewest in train, of 3 classes seen there)" in lines
    chance = (759 / 768) / 3  # all background, on the validation split
    assert f"selection_accuracy of guessing: {chance:.4f}" in lines


def test_warnings_of_the_data_are_told_and_a_misspelt_field_is_pointed_at(grids: Path, capsys) -> None:
    with np.load(grids) as old:
        arrays = {name: old[name] for name in old.files}
    arrays["grids"][-1] = arrays["grids"][0]
    np.savez(grids, grids=arrays["grids"], split=arrays["split"], grop=arrays["group"])
    assert main(["data", "check", "beta_vae", "grids.npz"]) == 0
    warnings = [line for line in said(capsys) if line.startswith("warning: ")]
    assert warnings[0] == "warning: grids.npz: 'grop' is not in the schema. Did you mean 'group'?"
    assert any("1 grids of val and test also occur in train" in line for line in warnings)


def test_a_data_setting_changes_what_is_found(grids: Path, capsys) -> None:
    assert main(["data", "check", "beta_vae", "grids.npz", "--set", "data.min_background=0.999"]) == 2
    assert "lower data.min_background" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["beta_vae"], "FILE is missing"),
        (["beta_vea", "grids.npz"], "Did you mean 'beta_vae'?"),
        (["beta_vae", "absent.npz"], "absent.npz: does not exist"),
        (["beta_vae", "bad.npz"], "'grids' row 1 holds 12 at [0, 0]; allowed are 0 to 9"),
        (["beta_vae", "grids.npz", "--schema"], "takes neither FILE nor --set"),
        (["beta_vae", "grids.npz", "--set", "data.min_backgroud=1"], "Did you mean 'data.min_background'?"),
        (["beta_vae", "grids.npz", "--set", "data.min_background=2"], "outside its range"),
        (["beta_vae", "grids.npz", "--set", "data.path=b.npz"], "must be one of data.min_background"),
        (["tiny_family:TINY", "grids.npz"], "reads no files"),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_one_message(grids, capsys, arguments, word) -> None:
    cells = np.zeros((3, 2, 2), int)
    cells[1, 0, 0] = 12
    np.savez("bad.npz", grids=cells, split=np.arange(3))
    assert main(["data", "check", *arguments]) == 2
    captured = capsys.readouterr()
    assert word in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize("name", FAMILIES)
def test_the_schema_names_every_field_with_its_shape_and_meaning(name: str, capsys) -> None:
    assert main(["data", "schema", name]) == 0
    lines = said(capsys)
    assert main(["data", "check", name, "--schema"]) == 0
    assert said(capsys) == lines
    for field, what in family_named(name).file_fields.items():
        (line,) = (line for line in lines if line.startswith(f"{field} "))
        assert line.endswith(" ".join(what.help.split()))
        assert what.help and f" {'yes' if what.required else 'no'} " in line


def test_the_schema_writes_axes_and_ranges_as_messages_do() -> None:
    from search.commands_data import _axis, _range

    assert [_axis(axis) for axis in ("N", 92, range(1, 17))] == ["N", "92", "1..16"]
    assert _range(Field(("integer",), ("N",), 0, 9)) == "0 to 9"
    assert _range(Field(("integer",), ("N",), low=0)) == "from 0"
    assert _range(Field(("integer", "text"), ("N",), 0, 2, ("a", "b"))) == "a, b or 0 to 2"
    assert _range(Field(("float",), ("N",))) == "finite"
    assert _range(Field(("text",), ("N",))) == ""


def test_examples_without_a_label_are_counted_and_are_no_class(capsys) -> None:
    from search.commands_data import _print_labels

    _print_labels("offence", {"no": [3, 1, 1], "yes": [1, 0, 0], "(no label)": [96, 0, 0]})
    assert said(capsys) == [
        "offence train val test share of train",
        "no 3 1 1 75.00%",
        "yes 1 0 0 25.00%",
        "(no label) 96 0 0",
        "imbalance 3:1 (most to fewest in train, of 2 classes seen there)",
    ]


@pytest.mark.skipif(not FOULS.is_file(), reason="the sample data lies beside the repository")
def test_the_sample_of_fouls_has_the_imbalance_that_was_counted(capsys) -> None:
    assert main(["data", "check", "multitask", str(FOULS)]) == 0
    lines = said(capsys)
    with np.load(FOULS) as arrays:
        action, split = arrays["action_class"], arrays["split"]
        matches = [len(set(arrays["match_id"][split == part])) for part in range(3)]
    counts = np.bincount(action[split == 0])
    assert f"ground_duel {counts[0]:,}" in " ".join(lines)
    assert any(f"imbalance {counts.max() / counts.min():.3g}:1" in line for line in lines)
    assert any(line.startswith("groups {:,} train, {:,} val, {:,} test".format(*matches)) for line in lines)


@pytest.mark.parametrize(
    "command",
    [["data", "check"], ["data", "schema"]]
    + [["data", "convert", name] for name in ("soccernet", "wyscout", "events", "pages")],
)
def test_every_command_about_data_has_an_example_in_its_help(command: list[str], capsys) -> None:
    assert main([*command, "--help"]) == 0
    assert f"  loss-search {' '.join(command)} " in capsys.readouterr().out


def test_help_about_data_comes_without_the_heavy_libraries() -> None:
    script = (
        "import sys; from search.cli import main; code = main(['data', 'convert', '--help']); "
        "heavy = {'torch', 'ray', 'numpy', 'h5py', 'PIL'} & set(sys.modules); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "soccernet" in done.stdout
