"""The page of a long trajectory as a browser shows it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from hpc.evaluation.page import render_page
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import BranchPoint, EpisodeHeader
from hpc.trajectories.writer import TrajectoryWriter
from tests.integration.browser import Page, opened, program
from tests.unit.trajectories.samples import T0, episode, run_dir

STEPS = 3000
PHONE = 375
SHOWN = "[...document.querySelectorAll('li.step')].filter((one) => !one.hidden).length"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program()
    run = run_dir(tmp_path_factory.mktemp("page"))
    branch = BranchPoint(episode_id="first-00003", run="first", index=3, step=40, abandoned=57, at=T0)
    records = [replace(r, branched_from=branch) if isinstance(r, EpisodeHeader) else r for r in episode(STEPS)]
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*records)
        sealed = writer.seal()
    path = sealed.with_name("page.html")
    with Trajectory.open(sealed) as trajectory:
        path.write_text(render_page(trajectory))
    return path


def test_a_long_trajectory_is_read_with_ease(written: Path, tmp_path: Path) -> None:
    async def read() -> None:
        async with opened(written, tmp_path / "profile") as page:
            await folded_and_opened(page)
            await searched(page)
            await filtered(page)
            await lit_and_dark(page)
            await on_a_phone(page)
            assert page.problems == []

    asyncio.run(read())


async def folded_and_opened(page: Page) -> None:
    assert await page.js(SHOWN) == STEPS
    assert await page.js("document.querySelectorAll('li.step details[open]').length") == 0
    # what is out of sight is not laid out: that is what keeps thousands of steps smooth
    assert await page.js("getComputedStyle(document.querySelector('li.step')).contentVisibility") == "auto"
    await page.js("location.hash = '#step-2500'")
    await page.until("document.querySelector('#step-2500 details[open] pre')")
    assert "line 2500" in await page.js("document.querySelector('#step-2500 .body').innerText")
    assert await page.js("Math.abs(document.querySelector('#step-2500').getBoundingClientRect().top) < innerHeight")
    facts = await page.js("document.querySelector('header').innerText")
    assert "first/3 after step 40" in facts and "its steps 41 to 57" in facts and "$1.50" in facts
    await page.js("location.hash = '#step-2501'")
    await page.until("document.querySelector('#step-2501 details[open] dl.facts')")
    costs = await page.js("document.querySelector('#step-2501 .body').innerText")
    assert "$0.0010" in costs and "attached again" in costs


async def searched(page: Page) -> None:
    typed = "{ const box = document.getElementById('query'); box.value = %r; box.dispatchEvent(new Event('input')); }"
    await page.js(typed % "line 2999")
    await page.until(f"{SHOWN} === 1")
    assert await page.js("document.getElementById('state').textContent") == "1 of 3,000 steps"
    await page.js(typed % "")
    await page.until(f"{SHOWN} === {STEPS}")


async def filtered(page: Page) -> None:
    chip = "[...document.querySelectorAll('#chips button')].find((one) => one.textContent.startsWith('Summaries'))"
    assert await page.js(f"{chip}.textContent") == f"Summaries {STEPS // 10}"
    await page.js(f"{chip}.click()")
    assert await page.js("document.querySelectorAll('li.summary:not([hidden])').length") == STEPS // 10
    await page.js("document.querySelector('li.summary summary').click()")
    shown = await page.js("document.querySelector('li.summary').innerText")
    assert "took the place of steps 1 to 7" in shown and "So far: 10 steps" in shown
    await page.js(f"{chip}.click()")
    assert "snapshot 000000000000" in await page.js("document.querySelector('li.turn:nth-of-type(n+12)').innerText")


async def lit_and_dark(page: Page) -> None:
    colours = []
    for scheme in ("light", "dark"):
        await page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        style = "getComputedStyle(document.body)"
        pair = f"[{style}.backgroundColor, {style}.color]"
        colours.append(await page.js(f"{pair}.map((one) => one.match(/\\d+/g)[0] * 1)"))
    (light, dark_on_light), (dark, light_on_dark) = colours
    assert light - dark_on_light > 128 and light_on_dark - dark > 128


async def on_a_phone(page: Page) -> None:
    await page.send("Emulation.setDeviceMetricsOverride", width=PHONE, height=700, deviceScaleFactor=2, mobile=True)
    await page.js("document.getElementById('step-2501').scrollIntoView()")
    assert await page.js("document.scrollingElement.scrollWidth") <= PHONE
    assert await page.js("document.querySelector('.narrow').getBoundingClientRect().width") > 0
