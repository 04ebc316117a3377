"""Tables of fault runs, for one call of the suite and for many. Pure functions."""

from .judge import describe


def table(headers, rows):
    """A table in plain text."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [headers, *cells]) for i in range(len(headers))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [headers, *cells]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def faults(rows, strays, not_done):
    """Every run, then the totals."""
    headers = ["fault", "rank", "said", "kind", "rank", "seconds", "iterations", "in time", "job longer", "recovery", "also said"]
    cells = []
    for row in rows:
        where = f"{row['rank']}>{row['peer']}" if row.get("peer") is not None else row["rank"]
        cells.append(
            [
                row["fault"],
                where,
                row.get("said") or row.get("error") or "nothing",
                mark(row.get("right_kind")),
                mark(row.get("right_rank")),
                number(row.get("seconds"), 2),
                number(row.get("iterations"), 1),
                mark(row.get("in_time")),
                f"x {row['longer']:.2f}" if row.get("longer") else "",
                row.get("recovery", ""),
                " ".join(row.get("others", [])),
            ]
        )
    text = [table(headers, cells), "", totals(rows, ("fault",))]
    if strays:
        text.append(f"false alarms: {', '.join(describe(finding) for finding in strays)}")
    if not_done:
        text.append(f"not done for want of time: {', '.join(not_done)}")
    return "\n".join(text)


def totals(rows, keys):
    """A line for each kind of fault, or for each combination of these keys."""
    lines = []
    for key in dict.fromkeys(tuple(row.get(name, "") for name in keys) for row in rows):
        mine = [row for row in rows if tuple(row.get(name, "") for name in keys) == key]
        seconds = sorted(row["seconds"] for row in mine if row.get("seconds") is not None)
        iterations = sorted(row["iterations"] for row in mine if row.get("iterations") is not None)
        lines.append(
            [
                *key,
                f"{sum(row['passed'] for row in mine)}/{len(mine)}",
                *(sum(bool(row.get(name)) for row in mine) for name in ("right_kind", "right_rank", "in_time", "recovered")),
                spread(seconds, 2),
                spread(iterations, 1),
                spread(sorted(row["restart_seconds"] for row in mine if row.get("restart_seconds") is not None), 1),
            ]
        )
    headers = [
        *keys,
        "passed",
        "right kind",
        "right rank",
        "in time",
        "recovered",
        "seconds (worst)",
        "iterations (worst)",
        "restart s (worst)",
    ]
    return table(headers, lines)


def healthy(results):
    """A line for each job that nothing was wrong with."""
    lines = [
        [
            one.get("shape", ""),
            one.get("iterations_done", ""),
            number(one.get("period_ms"), 1),
            number(one.get("seconds"), 0),
            mark(one.get("learned")),
            number(one.get("learning_seconds"), 1),
            len(one.get("findings", [])),
            "yes" if one.get("passed") else "NO",
            one.get("stopped", ""),
        ]
        for one in results
    ]
    headers = ["shape", "iterations", "ms each", "seconds", "learned", "after s", "findings", "passed", "stopped"]
    return table(headers, lines)


def mark(value):
    """yes, NO or nothing."""
    return "" if value is None else "yes" if value else "NO"


def number(value, digits):
    """A number or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def spread(values, digits):
    """Median and worst."""
    return f"{values[len(values) // 2]:.{digits}f} ({values[-1]:.{digits}f})" if values else ""


def short(row):
    """A row in one line."""
    if row.get("error"):
        return f"ERROR {row['error']}"
    word = "passed" if row["passed"] else "FAILED"
    summary = (row.get("finding") or {}).get("summary", "")
    took = f"{number(row.get('seconds'), 2)} s" + (f", {row['iterations']:.1f} iterations" if row.get("iterations") else "")
    if row.get("longer"):
        took += f", iterations {row['longer']:.2f} times as long"
    return f"{word}: said {row.get('said', 'nothing')} after {took}; {row.get('recovery', '')}; {summary}"
