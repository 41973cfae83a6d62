"""Keeps the journal bounded: what nobody will ask for again leaves it, and its pages are given back.

Figures for statistics are kept elsewhere (`hpc.router.annals`), so old rows may go. Open alerts and
undelivered guidance never do, nor do episodes: their epochs fence old incarnations.
"""

from __future__ import annotations

import json

from hpc.router.catalog import Catalog
from hpc.router.store import Store

POST_SECONDS = 3600.0
"""A published post is forgotten after this."""
EVIDENCE_SECONDS = 86_400.0
"""The steps shown with an alert are forgotten so long after it was closed."""
HISTORY_SECONDS = 7 * 86_400.0
"""Alerts and replies of an episode are forgotten so long after its end."""
SLICE = 1000
"""Most rows of a kind in one go: agents wait meanwhile."""
PAGES = 2000

_NOTHING = b"\x90"  # an empty list in msgpack

_OVER = "select episode from episode where ended_at < ?"


def compact(store: Store, catalog: Catalog, now: float) -> int:
    """Forget a slice of what is old at ``now`` (Unix seconds); how many rows it touched.

    Raises:
        HpcError: the disk is full.
    """
    with store.transaction():
        touched = store.run(
            "delete from post where number in (select number from post where done_at < ? limit ?)",
            *(now - POST_SECONDS, SLICE),
        )
        touched += store.run(
            "update alert set evidence = ? where number in (select number from alert where state <> 'open'"
            " and length(evidence) > 1 and coalesce(closed_at, stored_at) < ? limit ?)",
            *(_NOTHING, now - EVIDENCE_SECONDS, SLICE),
        )
        for table in ("alert", "guidance"):  # the newest row stays: numbers must not be given twice
            old = store.all(
                f"select number, {table} as name from {table} where episode in ({_OVER})"
                f" and number < (select max(number) from {table}) limit ?",
                *(now - HISTORY_SECONDS, SLICE),
            )
            touched += store.run(
                f"delete from {table} where number in (select value from json_each(?))",
                json.dumps([row["number"] for row in old]),
            )
            if table == "alert":
                catalog.forgotten(row["name"] for row in old)
    if touched:
        store.all(f"pragma incremental_vacuum({PAGES})")
    return touched
