"""Tables in Markdown of what ``novel.py`` found: a row per set, a column per method."""

from __future__ import annotations

from statistics import mean, median
from typing import Optional

BASE = "Grow from seeds"


def table(rows: list[dict], titles: dict[str, str]) -> str:
    """One table for each painting and round: mean Dice, and the comparison with Grow from seeds below.

    A case counts with the mean over its classes. Within a set, only what all methods have that were run on it counts,
    so that a run that is not complete compares like with like; a set on which a method wasn't run is ``-``, and the
    method's mean says over how many sets it goes. Differences are between results on the same case and strokes.
    """
    parts = []
    for painting, number in dict.fromkeys((row["painting"], row["round"]) for row in rows):
        own = [row for row in rows if (row["painting"], row["round"]) == (painting, number)]
        own = common(_told_apart(own))
        said = f"{painting} per structure" + (f", {number} corrections" if number else "")
        cases = {(row["set"], row["case"]) for row in own}
        seeds = sorted({row["seed"] for row in own})
        budgets = sorted({row["budget"] for row in own} - {None})
        note = f"{said}; {len(cases)} cases; stroke seeds {', '.join(map(str, seeds))}"
        note += "".join(f"; tuning {budget:g} s" for budget in budgets)
        refused = sum("refused" in row for row in own)
        note += f"; {refused} refusals, which count as 0" if refused else ""
        parts.append("\n".join([*_lines(own, titles), "", note + "."]))
    return "\n\n".join(parts) or "Nothing has been computed yet."


def _told_apart(rows: list[dict]) -> list[dict]:
    """A column for each budget of a method that was run with several."""
    budgets: dict[str, set] = {}
    for row in rows:
        budgets.setdefault(row["method"], set()).add(row["budget"])

    def title(row: dict) -> str:
        return f"{row['method']}, {row['budget']:g} s" if len(budgets[row["method"]]) > 1 else row["method"]

    return [{**row, "method": title(row)} for row in rows]


def common(rows: list[dict]) -> list[dict]:
    """The rows of those cases and seeds of each set that every method has that has any row of the set."""

    def place(row: dict) -> tuple:
        return row["set"], row["case"], row["seed"]

    methods: dict[str, set] = {}
    there: dict[tuple, set] = {}
    for row in rows:
        methods.setdefault(row["set"], set()).add(row["method"])
        there.setdefault(place(row), set()).add(row["method"])
    return [row for row in rows if there[place(row)] == methods[row["set"]]]


def _lines(rows: list[dict], titles: dict[str, str]) -> list[str]:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    sets = [name for name in titles if any(row["set"] == name for row in rows)]
    found = {(row["set"], row["case"], row["seed"], row["method"]): dice(row) for row in rows}
    lines = ["| set | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    means: dict[str, dict[str, float]] = {each: {} for each in methods}
    for name in sets:
        cells = []
        for each in methods:
            values = [value for (group, _, _, of), value in found.items() if (group, of) == (name, each)]
            known = [value for value in values if value is not None]
            if known:
                means[each][name] = mean(known)
            cells.append(f"{mean(known):.3f}" if known else "-")
        lines.append(f"| {titles[name]} | " + " | ".join(cells) + " |")
    overall = [_counted(means[each], len(sets)) for each in methods]
    lines.append("| **mean over sets** | " + " | ".join(overall) + " |")
    worst = [_worst_set(found, sets, each) for each in methods]
    lines.append(f"| worst set against {BASE} | " + " | ".join(worst) + " |")
    single = [_worst_case(found, each) for each in methods]
    lines.append(f"| worst case against {BASE} | " + " | ".join(single) + " |")
    seconds = [median(row["seconds"] for row in rows if row["method"] == each) for each in methods]
    lines.append("| seconds (median) | " + " | ".join(f"{value:.1f}" for value in seconds) + " |")
    return lines


def dice(row: dict) -> Optional[float]:
    """The mean over the classes of a row, None where it has none."""
    known = [value for value in row["dice"].values() if value is not None]
    return mean(known) if known else None


def _counted(means: dict[str, float], sets: int) -> str:
    if not means:
        return "-"
    return f"**{mean(means.values()):.3f}**" + ("" if len(means) == sets else f" ({len(means)} of {sets})")


def _differences(found: dict, method: str) -> dict[tuple, float]:
    """(set, case, seed) -> Dice minus that of Grow from seeds, where both are known."""
    pairs = {key[:3]: (value, found.get((*key[:3], BASE))) for key, value in found.items() if key[3] == method}
    return {key: own - base for key, (own, base) in pairs.items() if own is not None and base is not None}


def _worst_set(found: dict, sets: list[str], method: str) -> str:
    differences = _differences(found, method)
    each = {name: [value for key, value in differences.items() if key[0] == name] for name in sets}
    known = {name: mean(values) for name, values in each.items() if values}
    if method == BASE or not known:
        return "-"
    worst = min(known, key=lambda name: known[name])
    return f"{known[worst]:+.3f} ({worst})"


def _worst_case(found: dict, method: str) -> str:
    differences = _differences(found, method)
    if method == BASE or not differences:
        return "-"
    worst = min(differences, key=lambda key: differences[key])
    return f"{differences[worst]:+.3f} ({worst[0]} {worst[1]})"
