"""The live list of ``hpc inbox watch``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.inbox_parts import builtins, open_inbox

if TYPE_CHECKING:
    from hpc.router.desk import AlertCard, EpisodeCard
    from hpc.rundir import RunDir

WATCH_SECONDS = 2.0


def watch_alerts(run: RunDir, *, show_all: bool, as_json: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    from hpc.cli.inbox_views import ALERT_COLUMNS, alert_cells, live_view

    console = Console()
    if console.is_terminal and not as_json:
        with Live(console=console, auto_refresh=False, screen=False) as live:
            for alerts, cards, problem in _polled(run, show_all=show_all):
                live.update(live_view(run.name, alerts, cards, problem), refresh=True)
        return
    shown: dict[str, tuple[Any, ...]] = {}
    complaint = ""
    for alerts, _, problem in _polled(run, show_all=show_all):
        if problem and problem != complaint:
            click.echo(problem, err=True)
        complaint = problem
        for alert in alerts:
            state = (alert.state, alert.owner, alert.count, alert.held)
            if shown.get(alert.alert) == state:
                continue
            shown[alert.alert] = state
            if as_json:
                click.echo(json.dumps(builtins(alert), ensure_ascii=False))  # one line a change
            else:
                cells = zip(ALERT_COLUMNS, alert_cells(alert), strict=True)
                click.echo("  ".join(f"{name}={cell}" for name, cell in cells if cell))


def _polled(run: RunDir, *, show_all: bool) -> Iterator[tuple[list[AlertCard], list[EpisodeCard], str]]:
    """Alerts, episodes and what is wrong, again and again. Each look is a connection of its own, so a
    router that was started again elsewhere is found.

    Raises:
        RouterUnreachable: none answers at first.
    """
    from hpc.core.errors import RouterUnreachable

    reached = False
    while True:
        try:
            with open_inbox(run) as client:
                found = client.alerts(all=show_all), client.episodes(), ""
        except RouterUnreachable as error:
            if not reached:
                raise
            found = [], [], f"{error.message}; waiting for one ({error.hint})"
        reached = True
        yield found
        time.sleep(WATCH_SECONDS)
