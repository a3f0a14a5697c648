"""The commands that tell what there is: families, spaces, doctor."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from search.console import print_table, say, short

__all__ = ["doctor", "families", "spaces"]


def families(
    name: Annotated[str | None, typer.Argument(metavar="FAMILY", help="For its knobs and metrics.")] = None,
) -> None:
    """List the families, or one FAMILY's settings.

    \b
    Examples:
      loss-search families
      loss-search families beta_vae
    """
    from search.configuration import known_family
    from trainables import FAMILIES

    if name is None:
        print_table(("family", "what it is"), [(key, known_family(key).summary) for key in FAMILIES])
        return
    family = known_family(name)
    say(f"{family.name}: {family.summary}")
    say(f"loss terms: {', '.join(family.terms)}")
    say(f"data sources: {', '.join(family.sources)}")
    for title, settings in (
        ("knobs (vary within a stack)", family.knobs),
        ("static settings (shared by a stack)", family.statics),
        ("data settings", family.data_settings),
    ):
        say()
        rows = [(key, short(one.default), _range(one), one.help) for key, one in settings.items()]
        print_table((title, "default", "allowed", "meaning"), rows)
    say()
    better = {True: "higher", False: "lower", None: ""}
    metrics = [(key, better[metric.higher_is_better], metric.help) for key, metric in family.metrics.items()]
    print_table(("metrics", "better", "meaning"), metrics)
    say()
    print_table(("collapse", "shows when"), list(family.collapse_kinds.items()))


def _range(setting: Any) -> str:
    if hasattr(setting, "options"):
        return ", ".join(map(str, setting.options))
    return f"{short(setting.low)} to {short(setting.high)}"


def spaces() -> None:
    """List the spaces that come with the package.

    \b
    Example:
      loss-search spaces
    """
    from search.space import shipped_spaces

    print_table(("space", "family", "what it is for"), shipped_spaces())


def doctor() -> None:
    """Say whether this machine can run a search.

    Looks at versions, cores, memory, GPUs, free space and data. Exits with 1 when a search cannot run.

    \b
    Example:
      loss-search doctor
    """
    from search.doctor import examine

    found = list(examine())
    words = {"ok": "ok", "note": "note", "bad": "BAD"}
    print_table(("", "looked at", "found"), [(words[one.level], one.subject, one.text) for one in found])
    bad = [one for one in found if one.level == "bad"]
    say()
    if bad:
        say(f"A search cannot run here: see {', '.join(one.subject for one in bad)}.")
        raise typer.Exit(1)
    say("A search can run here.")
