"""Tables of text for a plan and for a state file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rankme_stream.errors import counted, printable

if TYPE_CHECKING:
    from rankme_stream.passes.state.pass_state import State
    from rankme_stream.sources import Source


def plan_table(name: str, source: Source, planned: dict[str, Any]) -> str:
    """Return a table of a plan, given as the result of ``Plan.to_dict``."""
    from rankme_stream.results.table import source_lines
    from rankme_stream.sources import describe_parts

    mebi = 2**20
    described = {"dtype": source.stored.name, "decoding": source.stored.description, **describe_parts(source)}
    lines = [
        printable(name),
        *source_lines(described),
        f"  rows        {planned['row_start']:,} to {planned['row_stop']:,} x {planned['n_features']:,} features",
        f"  method      {planned['method']} in {planned['precision']}, {planned['flops']:.3g} flops"
        + (", unit rows too" if planned["normalize"] else ""),
        f"  panels      {planned['panel_rows']:,} rows; "
        f"segments {planned['segments']:,} of {planned['segment_rows']:,} rows",
        f"  reading     {planned['bytes_stored'] / mebi:,.1f} MiB decoded, "
        f"blocks of up to {planned['block_rows']:,} rows{_read_ahead(planned)}",
        *_sample_line(planned),
        f"  workers     {planned['workers']}, {_shared_work(planned)}",
        f"  memory      {planned['predicted_peak_bytes'] / mebi:,.0f} MiB predicted, "
        f"limit {planned['memory_limit_bytes'] / mebi:,.0f} MiB",
    ]
    if "schedule" in planned:
        lines += _schedule_lines(planned["schedule"])
    if planned["checkpoint_bytes"]:
        lines.append(
            f"  checkpoint  up to {planned['checkpoint_bytes'] / mebi:,.1f} MiB, every minute, or less often if a "
            "write takes over 1.2 s, so that writing takes at most 2 % of the time"
        )
    lines += [f"    {purpose:<12}{n_bytes / mebi:>10,.1f} MiB" for purpose, n_bytes in planned["memory"].items()]
    if planned["card"]:
        limit = planned["card_limit_bytes"]
        free = f", {limit / mebi:,.0f} MiB free" if limit else ""
        lines.append(f"  card        {planned['card_peak_bytes'] / mebi:,.0f} MiB predicted{free}")
        lines += [f"    {purpose:<12}{n_bytes / mebi:>10,.1f} MiB" for purpose, n_bytes in planned["card"].items()]
    return "\n".join([*lines, *_rows_needed_lines(planned.get("rows_needed"))])


def _shared_work(planned: dict[str, Any]) -> str:
    if planned["card"]:
        return "which read, and one thread for the card"
    return counted(planned["segments_at_once"], "segment") + " at once"


def _read_ahead(planned: dict[str, Any]) -> str:
    if planned["card"]:
        from rankme_stream.passes.planning.card_layout import slots

        return f" in {slots(reads_ahead=planned['reads_ahead'])} slots"
    return ", one read ahead" if planned["reads_ahead"] else ""


def _schedule_lines(schedule: dict[str, Any]) -> list[str]:
    node_mebi = schedule["node_bytes"] / 2**20
    nodes = schedule["nodes_gathered"]
    return [
        f"  tasks       {schedule['tasks']:,} of {1 << schedule['task_level']:,} segments, about "
        f"{schedule['task_s']:.0f} s each, {schedule['elapsed_s'] / 3600:,.1f} h on {schedule['threads']:,} threads",
        f"  in flight   {schedule['in_flight']:,}, none more than {schedule['started_ahead']:,} ahead of the oldest",
        f"  live        {schedule['live_nodes']:,} partial results of {node_mebi:,.1f} MiB at most, "
        f"{schedule['live_nodes'] * node_mebi / schedule['threads']:,.1f} MiB per thread",
        f"  traffic     up to {nodes:,} results to the client every {schedule['gather_s']:.0f} s, "
        f"{nodes * node_mebi / schedule['gather_s']:,.0f} MiB/s",
        f"  at risk     {schedule['lost_s']:.0f} s of work, if everything but the state file is lost",
    ]


def state_table(state: State) -> str:
    """Return a table of the rows that a state of an incomplete pass holds and lacks."""
    plan, done = state.plan, sum(stop - start for start, stop in state.covered)
    n_rows = plan.row_stop - plan.row_start
    gaps = [f"    {start:,} to {stop - 1:,}" for start, stop in state.missing]
    return "\n".join(
        [
            printable(state.source["uri"]),
            f"  method      {plan.method} in {plan.precision}" + (", unit rows too" if plan.normalize else ""),
            f"  rows        {done:,} of {n_rows:,} read ({done / n_rows:.1%}); no result before the rest is read:",
            *gaps,
        ]
    )


def _sample_line(planned: dict[str, Any]) -> list[str]:
    if not planned["sample_rows"]:
        return []
    return [
        f"  sample      {planned['sample_rows']:,} rows or more, in random units of {planned['unit_rows']:,} rows; "
        "flops and MiB are those of all rows",
        *_first_look_line(planned),
    ]


def _first_look_line(planned: dict[str, Any]) -> list[str]:
    look = planned.get("first_look") or (planned.get("rows_needed") or {}).get("first_look")
    if look is None:
        return []
    return [
        f"  first look  {look['units']:,} units, about {counted(look['chunks'], 'chunk')} opened, "
        f"{look['bytes_decoded'] / 2**20:,.1f} MiB decoded; chunks of unlike size are looked into as well"
    ]


_SPECTRA = {
    "equal": "if all singular values are equal", "k^-1/2": "if s_k ~ k^-1/2", "k^-1": "if s_k ~ k^-1",
    "pilot": "for rows like those of the pilot",
}  # fmt: skip


def _rows_needed_lines(needed: dict[str, Any] | None) -> list[str]:
    """Return the rows that a tolerance needs, and the expected half-widths of several numbers of rows."""
    if needed is None:
        return []
    target = "the population of the rows" if needed["population"] else f"all {needed['n_rows']:,} rows"
    lines = [
        f"  rows needed for a half-width of {100 * needed['tolerance']:g} % of RankMe of {target}, "
        f"{100 * needed['confidence']:g} %, as an expectation:"
    ]
    for name, rows in needed["rows"].items():
        number = "every row" if rows is None else f"{rows:,} rows, {rows / needed['n_features']:.3g} a feature"
        lines.append(f"    {number}, {_SPECTRA[name]}")
    if pilot := needed["pilot"]:
        lines.append(
            f"    pilot: {pilot['rows']:,} rows read, in {pilot['units']:,} random units, about "
            f"{counted(pilot['chunks'], 'chunk')} opened, {pilot['bytes_decoded'] / 2**20:,.1f} MiB decoded"
        )
    if needed["points"]:
        lines += _point_lines(needed)
    if not pilot:
        lines.append("    rows that vary in length or come from several sources need more: --pilot reads some")
    return lines


def _point_lines(needed: dict[str, Any]) -> list[str]:
    names, points = list(needed["rows"]), needed["points"]
    has_price = any(one["cost"] and one["cost"]["price"] is not None for one in points)
    head = ["rows", "a feature", *(f"+- {name}" for name in names), "chunks", "decoded", *["price"] * has_price]
    rows = [head]
    for one in points:
        cells = [f"{one['rows']:,}", f"{one['rows'] / needed['n_features']:.3g}"]
        cells += [f"{100 * one['half_width'][name]:.2g} %" for name in names]
        if cost := one["cost"]:
            cells += [f"{cost['chunks']:,}", f"{cost['bytes_decoded'] / 2**20:,.1f} MiB"]
            if has_price:
                cells.append(f"{cost['price']:,.2f}" if cost["price"] >= 1.0 else f"{cost['price']:.2g}")
        rows.append(cells + [""] * (len(head) - len(cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [("    " + "  ".join(map(str.rjust, row, widths))).rstrip() for row in rows]
