"""The space file: what is refused, with which words and at which cost, and what a Space then promises."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.errors import BadSpace
from search.parameters import MAX_CELLS, Parameter, cells, in_dependency_order, num_cells
from search.space import Space, load_space, shipped_spaces, traps
from trainables import FAMILIES
from trainables.beta_vae import BETA_VAE

BAD_SPACES = sorted((Path(__file__).parent / "bad_spaces").glob("*.yaml"))
SHIPPED = [name for name, _, _ in shipped_spaces()]
TINY = "family: tiny_family:TINY\nbudget: {trials: 20, epochs: 30}\n"
TINY_KNOBS = """knobs:
  penalty.weight: {float: [0.01, 1.0], log: true}
  penalty.start: {float: [0.0, 0.5], when: {penalty.schedule: [linear, delayed]}}
  penalty.schedule: {choice: [constant, linear, delayed]}
"""


def load(folder: Path, text: str, **options: object) -> Space:
    file = folder / "space.yaml"
    file.write_text(text, encoding="utf-8")
    return load_space(file, **options)


def complaint(folder: Path, text: str, **options: object) -> str:
    with pytest.raises(BadSpace) as caught:
        load(folder, text, **options)
    return str(caught.value).replace(f"{folder}/", "")


def expected_complaint(file: Path) -> str:
    """The `# expect:` lines; words in <> stand for lists that grow with the package."""
    lists = {
        "families": FAMILIES,
        "knobs": BETA_VAE.knobs,
        "statics": BETA_VAE.statics,
        "objectives": [name for name, m in BETA_VAE.metrics.items() if m.higher_is_better is not None],
    }
    lines = file.read_text(encoding="utf-8").splitlines()
    said = "\n".join(line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: "))
    for word, names in lists.items():
        said = said.replace(f"<{word}>", ", ".join(names))
    return said


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("file", BAD_SPACES, ids=lambda file: file.stem)
def test_a_bad_space_is_refused_with_exactly_these_words(file):
    with pytest.raises(BadSpace) as caught:
        load_space(file)
    assert str(caught.value).replace(f"{file.parent}/", "") == expected_complaint(file)
    assert caught.value.exit_code == 2


def test_there_are_many_bad_spaces():
    assert len(BAD_SPACES) >= 30


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path):
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"family: beta_vae\nname: caf\xe9\n")
    with pytest.raises(BadSpace, match=r"latin\.yaml:2: byte 0xe9 is not UTF-8"):
        load_space(file)


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\u2028"])
def test_control_characters_are_refused_with_their_line(tmp_path, character):
    said = complaint(tmp_path, f"family: beta_vae\n# a {character} comment\n")
    assert said.startswith(f"space.yaml:2: control character U+{ord(character):04X};")


def test_a_control_character_on_the_command_line_is_refused(tmp_path):
    said = complaint(tmp_path, TINY + TINY_KNOBS, overrides={"name": "a\udce9b"})
    assert said.startswith("--set name: control character U+DCE9")


@pytest.mark.parametrize("name", ["/dev/zero", ".", "no/such/file.yaml", "", "x" * 5000 + ".yaml", "a\0b"])
def test_what_is_no_plain_file_is_refused(name):
    with pytest.raises(BadSpace):
        load_space(name)


def test_a_misspelt_shipped_name_is_told_the_right_one():
    with pytest.raises(BadSpace, match=r"beta_vea: neither a file nor .* Did you mean 'beta_vae'\?"):
        load_space("beta_vea")


def test_an_alias_bomb_a_huge_file_and_deep_or_wide_nesting_cost_little_time_and_memory(tmp_path):
    rows = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    bombs = {
        "aliases": "a0: &a0 [x, x]\n" + "\n".join(rows),
        "depth_of_lists": "a: " + "[" * 100_000,
        "depth_of_mappings": "{a: " * 100_000,
        "depth_of_dashes": "- " * 100_000,
        "depth_of_questions": "? " * 100_000,
        "width": "a: [" + "1," * 500_000 + "1]",
        "keys": "\n".join(f"k{i}: 1" for i in range(100_000)),
        "one_word": "a: " + "x" * 1_000_000,
        "one_quoted_word": 'a: "' + "\\u0041" * 150_000 + '"',
        "digits": "a: " + "9" * 1_000_000,
        "colons": "a: 1" + ":59" * 300_000,
        "comment": "#" * 1_000_000,
    }
    for name, text in bombs.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(100 << 20)
    program = """
import pathlib, sys, time
from search.errors import BadSpace
from search.space import load_space
for file in sorted(pathlib.Path(sys.argv[1]).glob('*.yaml')):
    started = time.perf_counter()
    try:
        load_space(file)
        refused = 0
    except BadSpace as error:
        refused = int(len(str(error)) < 5000)
    peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1]
    print(file.stem, refused, time.perf_counter() - started, int(peak) / 1024, 'torch' in sys.modules)
"""
    run = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert {line[0] for line in lines} == {*bombs, "huge"}
    for name, refused, seconds, megabytes, with_torch in lines:
        assert refused == "1", name
        assert float(seconds) < 10, (name, seconds)
        assert float(megabytes) < 200, (name, megabytes)
        assert with_torch == "False", name


def test_windows_line_ends_and_a_byte_order_mark_change_no_line_number(tmp_path):
    file = tmp_path / "windows.yaml"
    text = TINY + "knobs:\n  penalty.wait: 1.0\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    with pytest.raises(BadSpace, match=r"windows\.yaml:4: tiny has no knob 'penalty\.wait'"):
        load_space(file)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_to_a_good_file_gives_a_space_or_a_clear_refusal_never_another_error(tmp_path, data):
    text = (
        TINY
        + TINY_KNOBS
        + "stop: {plateau: {patience: 3}}\nstart_from:\n  - {name: x, penalty.weight: 0.1}\n"
    )
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start, min(len(text), start + 12)))
    patch = data.draw(
        st.sampled_from([*"[]{}:,-?&*!|>'\"%@`#\t\n0", "1_", "~", "off", "1e5", "when", "- ", ": ", ""])
    )
    file = tmp_path / "space.yaml"
    file.write_text(text[:start] + patch + text[stop:])
    try:
        space = load_space(file)
    except BadSpace as refusal:
        assert all(line.startswith(f"{file}:") for line in str(refusal).splitlines()), refusal
    else:
        assert space.complete({}).keys() == space.parameters.keys()


@pytest.mark.parametrize(
    "text", ["1__0", "1_.5", "+1_0.5", "1.", ".5", "-.inf", "0x_", "0b_", "1:00.5", "2001-99-99"]
)
def test_numbers_that_only_yaml_could_love_are_read_or_refused(tmp_path, text):
    try:
        space = load(tmp_path, TINY + TINY_KNOBS.replace("0.01", "0.1") + f"  optim.clip: {text}\n")
    except BadSpace as refusal:
        assert "space.yaml:7: " in str(refusal)
    else:
        assert space.knobs["optim.clip"].value == float(text.replace("_", ""))


# ---------------------------------------------------------------------- what a Space promises


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_space_loads_without_traps_and_its_presets_lie_inside(name):
    space = load_space(name)
    assert space.name == name
    assert traps(space) == []
    assert all("\n" not in f"{line}" and line for line in shipped_spaces()[SHIPPED.index(name)])
    for preset in space.presets:
        values = space.preset_values(preset)
        assert all(space.parameters[key].holds(value) for key, value in values.items())
        assert preset.values.items() <= space.complete({**preset.values, **values}).items()


def test_every_static_and_knob_of_the_family_is_there(tmp_path):
    space = load(tmp_path, TINY + TINY_KNOBS)
    assert space.static.keys() == space.family.statics.keys()
    assert space.knobs.keys() == space.family.knobs.keys()
    assert space.knobs["optim.lr"] == Parameter("optim.lr", "fixed", value=1e-2)
    assert space.static["width"].value == 4 and isinstance(space.static["width"].value, int)


def test_a_condition_comes_before_what_depends_on_it(tmp_path):
    space = load(tmp_path, TINY + TINY_KNOBS)
    order = list(space.searched())
    assert order.index("penalty.schedule") < order.index("penalty.start")


def test_a_knob_is_in_force_only_while_its_conditions_hold(tmp_path):
    space = load(tmp_path, TINY + TINY_KNOBS)
    assert space.in_force("penalty.start", {"penalty.schedule": "linear"})
    assert not space.in_force("penalty.start", {"penalty.schedule": "constant"})
    with pytest.raises(KeyError, match=r"penalty\.schedule"):
        space.in_force("penalty.start", {})


def test_conditions_hold_through_a_chain_and_all_of_them_must():
    chain = {
        "a": Parameter("a", "choice", choices=("x", "y")),
        "b": Parameter("b", "choice", choices=(1, 2), when={"a": ("x",)}),
        "c": Parameter("c", "choice", choices=(3, 4), when={"b": (1,), "d": ("on",)}),
        "d": Parameter("d", "choice", choices=("on", "off")),
    }
    ordered = in_dependency_order(chain)
    assert list(ordered) == ["a", "b", "d", "c"]
    found = list(cells(ordered))
    assert {"a": "x", "b": 1, "d": "on", "c": 3} in found
    assert all(("c" in cell) == (cell.get("b") == 1 and cell["d"] == "on") for cell in found)
    assert all(("b" in cell) == (cell["a"] == "x") for cell in found)
    assert len(found) == num_cells(ordered) == 2 + 1 + 1 + 2 + 1  # y: 2; x, 1: on 2, off 1; x, 2: 2
    distinct = {tuple(sorted(cell.items())) for cell in found}
    assert len(distinct) == len(found)


def test_the_grid_is_the_cartesian_product_in_a_stable_order(tmp_path):
    knobs = "  penalty.weight: {choice: [0.1, 1.0]}\n  optim.clip: {choice: [1.0, 2.0, 4.0]}\n"
    grid = "static: {width: {int: [2, 5]}}\nsearch: {sampler: grid}\n"
    space = load(tmp_path, f"{TINY}knobs:\n{knobs}{grid}")
    expected = [
        {"width": width, "penalty.weight": weight, "optim.clip": clip}
        for width, weight, clip in itertools.product((2, 3, 4, 5), (0.1, 1.0), (1.0, 2.0, 4.0))
    ]
    assert list(space.cells()) == list(space.cells()) == expected
    assert space.num_cells() == 24


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_count_of_cells_is_the_number_of_cells(data):
    parameters: dict[str, Parameter] = {}
    for index in range(data.draw(st.integers(1, 5))):
        size = data.draw(st.integers(1, 3))
        targets = data.draw(st.lists(st.sampled_from(list(parameters)), unique=True)) if parameters else []
        when = {name: tuple(data.draw(st.sets(st.sampled_from(range(3)), min_size=1))) for name in targets}
        name = f"p{index}"
        parameters[name] = Parameter(name, "choice", choices=tuple(range(size)), when=when)
    assert num_cells(parameters) == sum(1 for _ in cells(parameters))


def test_a_grid_of_a_billion_cells_is_counted_without_walking_it():
    sizes = [Parameter(f"p{i}", "int", low=1, high=1000) for i in range(3)]
    assert num_cells({p.name: p for p in sizes}) == 10**9
    deciding = [Parameter(f"q{i}", "int", low=1, high=1000, when={f"p{i}": (1,)}) for i in range(3)]
    assert num_cells({p.name: p for p in [*sizes, *deciding]}) > MAX_CELLS
    assert num_cells({"f": Parameter("f", "float", low=0.0, high=1.0)}) == math.inf


def test_complete_gives_given_then_fixed_then_default_values(tmp_path):
    space = load(tmp_path, TINY + TINY_KNOBS + "  optim.clip: 5.0\n")
    whole = space.complete({"penalty.schedule": "constant", "penalty.weight": 0.5})
    assert whole["penalty.weight"] == 0.5
    assert whole["optim.clip"] == 5.0
    assert whole["penalty.start"] == 0.1
    assert whole.keys() == space.parameters.keys()
    with pytest.raises(KeyError, match="nonsense"):
        space.complete({"nonsense": 1})


def test_preset_values_are_the_searched_ones_in_force(tmp_path):
    presets = (
        "start_from: [{name: now, penalty.schedule: constant}, {name: late, penalty.schedule: delayed}]\n"
    )
    space = load(tmp_path, TINY + TINY_KNOBS + presets)
    now, late = space.presets
    assert space.preset_values(now) == {"penalty.weight": 0.1, "penalty.schedule": "constant"}
    assert space.preset_values(late) == {
        "penalty.weight": 0.1,
        "penalty.schedule": "delayed",
        "penalty.start": 0.1,
    }


ROUND_TRIPS = {
    **{name: name for name in SHIPPED},
    "minimal": TINY + "knobs: {penalty.weight: {float: [0.1, 1.0]}}\n",
    "several_objectives": TINY
    + TINY_KNOBS
    + "objective: [selection_accuracy, error]\nstop: {collapse: off}\n",
    "groups": TINY
    + TINY_KNOBS
    + "stop: {prune: off, any: [{target: {target: 0.0, metric: error}}, {time: {seconds: 60}}],"
    + " all: [{plateau: {patience: 2}}, {any: [{collapse: }, {plateau: {metric: error}}]}]}\n",
    "grid": TINY
    + "static: {width: {int: [2, 5]}}\nknobs: {penalty.weight: {choice: [1.0e-7, 10]}}\n"
    + "search: {sampler: grid, seed: 7}\nconfirm: {top: 1}\nname: '1e4'\n",
    "presets": TINY + TINY_KNOBS + "start_from: [{name: 'off', penalty.weight: 1}]\ndata: {size: 128}\n",
    "pruned_by_median": TINY + TINY_KNOBS + "stop: {prune: {rule: median, min_epochs: 2}, plateau: ~}\n",
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_the_resolved_form_reads_back_to_an_equal_space(tmp_path, case):
    source = ROUND_TRIPS[case]
    space = load_space(source) if source in SHIPPED else load(tmp_path, source)
    again = load(tmp_path, yaml.safe_dump(space.resolved(), sort_keys=False))
    assert again == space
    assert again.fingerprint() == space.fingerprint()
    assert again.resolved() == space.resolved()


def test_the_fingerprint_ignores_the_number_of_trials_and_nothing_else(tmp_path):
    text = TINY + TINY_KNOBS
    space = load(tmp_path, text)
    more = load(tmp_path, text.replace("epochs: 30", "epochs: 30, minutes: 5"), trials=99)
    assert more.fingerprint() == space.fingerprint() and more != space
    assert load(tmp_path, text + "# a comment\n").fingerprint() == space.fingerprint()
    edits = [
        {"epochs": 31},
        {"seed": 1},
        {"overrides": {"knobs.optim.clip": "2.0"}},
        {"overrides": {"static.width": "5"}},
        {"overrides": {"stop.plateau.patience": "7"}},
        {"overrides": {"data.noise": "0.2"}},
        {"overrides": {"objective": "error"}},
    ]
    prints = [load(tmp_path, text, **edit).fingerprint() for edit in edits]
    assert len({space.fingerprint(), *prints}) == len(edits) + 1


def test_directions_follow_the_metrics(tmp_path):
    space = load(tmp_path, TINY + TINY_KNOBS + "objective: [error, selection_accuracy]\n")
    assert space.directions == ("minimize", "maximize")
    assert space.stop.prune is None  # Optuna prunes one objective only


def test_a_data_path_is_taken_from_the_current_directory(tmp_path, monkeypatch):
    text = "family: beta_vae\nbudget: {trials: 9, epochs: 9}\nknobs: {kl.weight: {float: [0.1, 1.0]}}\n"
    (tmp_path / "home").mkdir()
    for folder in (tmp_path, tmp_path / "home"):
        (folder / "grids.npz").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    space = load(tmp_path, text + "data: {source: file, path: grids.npz}\n")
    assert space.data["path"] == str(tmp_path / "grids.npz")
    space = load(tmp_path, text + "data: {source: file, path: ~/grids.npz}\n")
    assert space.data["path"] == str(tmp_path / "home" / "grids.npz")


def test_a_file_name_becomes_a_safe_run_name(tmp_path):
    file = tmp_path / "-my späce.v2.yaml"
    file.write_text(TINY + TINY_KNOBS)
    assert load_space(file).name == "my-sp-ce.v2"


# ---------------------------------------------------------------------- the command line's changes


def test_the_command_line_wins_over_the_file(tmp_path):
    changes = {
        "budget.trials": "11",
        "static.width": "{choice: [4, 8]}",
        "knobs.optim.lr": "{float: [1.0e-3, 1.0e-1], log: true}",
        "knobs.penalty.weight": "0.3",
        "search.sampler": "random",
        "objective": "error",
        "data.size": "256",
        "stop.collapse.patience": "9",
        "stop.plateau": "off",
        "confirm.top": "2",
    }
    space = load(tmp_path, TINY + TINY_KNOBS, overrides=changes, trials=12, epochs=13, seed=14)
    assert (space.budget.trials, space.budget.epochs, space.seed) == (12, 13, 14)
    assert space.static["width"].choices == (4, 8)
    assert space.knobs["optim.lr"].log and space.knobs["penalty.weight"].value == 0.3
    assert (space.sampler, space.objectives, space.data["size"]) == ("random", ("error",), 256)
    (rule,) = space.stop.rules
    assert (rule.name, rule.settings["patience"]) == ("collapse", 9)
    assert space.confirm == {"top": 2, "seeds": 5}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("budget.trials", "0", "--set budget.trials: budget.trials is 0, outside its range"),
        ("budget.trails", "5", "--set budget.trails: unknown key 'trails' in budget"),
        ("knobs.penalty.weight", "1e-4", "Write 1.0e-4."),
        ("knobs.penalty.wieght", "1.0", "--set knobs.penalty.wieght: tiny has no knob"),
        ("kl.weight", "1.0", "--set kl.weight: a space has no 'kl'"),
        ("knob.penalty.weight", "1.0", "Did you mean 'knobs'?"),
        ("knobs", "{}", "--set knobs: names a whole section"),
        ("objective", "[", "--set objective: not YAML"),
        ("search.sampler", "", "--set search.sampler: search.sampler is nothing"),
        ("data.path", "x.npz", "--set data.path: data.path has no meaning with source synthetic"),
    ],
)
def test_a_bad_change_is_named_by_its_option(tmp_path, key, value, said):
    assert said in complaint(tmp_path, TINY + TINY_KNOBS, overrides={key: value})


def test_options_are_checked_like_the_file(tmp_path):
    said = complaint(tmp_path, TINY + TINY_KNOBS, trials=-4)
    assert said == "--trials: budget.trials is -4, outside its range: a whole number from 1 to 1,000,000."


def test_fixing_a_knob_by_hand_fixes_what_depended_on_it(tmp_path):
    space = load(tmp_path, TINY + TINY_KNOBS, overrides={"knobs.penalty.schedule": "constant"})
    assert list(space.searched()) == ["penalty.weight"]
    assert space.knobs["penalty.start"] == Parameter("penalty.start", "fixed", value=0.1)
    narrowed = {"knobs.penalty.schedule": "{choice: [constant, delayed]}"}
    space = load(tmp_path, TINY + TINY_KNOBS, overrides=narrowed)
    assert space.knobs["penalty.start"].when == {"penalty.schedule": ("delayed",)}


def test_fixing_a_knob_against_a_preset_names_the_way_out(tmp_path):
    text = TINY + TINY_KNOBS + "start_from: [{name: late, penalty.schedule: delayed}]\n"
    fixed = {"knobs.penalty.schedule": "constant"}
    said = complaint(tmp_path, text, overrides=fixed)
    assert "preset late sets penalty.schedule to delayed" in said and "--set start_from=[]" in said
    assert load(tmp_path, text, overrides={**fixed, "start_from": "[]"}).presets == ()


# ---------------------------------------------------------------------- traps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "knobs: {penalty.weight: {float: [0.1, 1.0]}}\nstop: {plateau: {warmup: 40}}\n",
            "stop.plateau needs warmup",
        ),
        (
            "knobs: {penalty.weight: {float: [0.1, 1.0]}}\nstop: {prune: {min_epochs: 30}}\n",
            "nothing is pruned",
        ),
        (
            TINY_KNOBS.replace("when: {penalty.schedule: [linear, delayed]}", ""),
            "Add when: {penalty.schedule:",
        ),
        (TINY_KNOBS.replace("[0.0, 0.5]", "[0.0, 0.01]"), "less than one epoch"),
        (TINY_KNOBS + "confirm: {top: 21}\n", "confirm.top is 21, more than the 20 trials"),
        (
            TINY_KNOBS + "search: {sampler: nsga2}\n",
            "nsga2 draws its first 50 trials at random, and there are 20",
        ),
        (TINY_KNOBS + "search: {sampler: gp}\n", "gp draws conditional parameters at random: penalty.start"),
        (
            "knobs: {penalty.weight: {choice: [0.1, 1.0]}}\nsearch: {sampler: grid}\n",
            "each of its 2 cells once, whatever budget.trials (20)",
        ),
        (
            "static: {width: {int: [2, 40]}}\nsearch: {sampler: grid}\n",
            "each of its 39 cells once, whatever budget.trials (20)",
        ),
    ],
)
def test_a_trap_is_told_with_its_numbers(tmp_path, text, said):
    found = traps(load(tmp_path, TINY + text.replace(", }", "}")))
    assert len([line for line in found if said in line]) == 1, found


def test_more_presets_than_trials_is_a_trap(tmp_path):
    presets = "start_from:\n" + "".join(f"  - {{name: p{i}, penalty.weight: 0.{i}}}\n" for i in range(1, 5))
    found = traps(load(tmp_path, TINY + TINY_KNOBS + presets, trials=3))
    assert any("3 trials are fewer than the 4 presets" in line for line in found)


def test_a_calm_space_has_no_traps(tmp_path):
    assert traps(load(tmp_path, TINY + TINY_KNOBS)) == []
    assert traps(load_space("beta_vae", overrides={"knobs.kl.ramp": "{float: [0.1, 0.9]}"})) != []
