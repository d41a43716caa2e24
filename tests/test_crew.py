"""`Crew` and `Bell`: work is begun at once and in order, and whoever waits is woken once."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from eventhost.rules.bell import Bell
from eventhost.rules.crew import Crew

pytestmark = pytest.mark.anyio

LIMIT_S = 20
"""Never reached unless something is broken."""


async def test_work_that_waits_holds_up_no_other() -> None:
    begun, all_begun, go_on = 0, anyio.Event(), anyio.Event()

    async def wait() -> None:
        nonlocal begun
        begun += 1
        if begun == 500:
            all_begun.set()
        await go_on.wait()

    async with anyio.create_task_group() as tasks:
        crew = Crew(tasks)
        for _ in range(500):
            crew.start_soon(wait)
        with anyio.fail_after(LIMIT_S):
            await all_begun.wait()
        go_on.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


async def test_work_begins_in_order_whatever_of_it_waits() -> None:
    begun: list[int] = []
    never = anyio.Event()
    done = anyio.Event()

    async def work(number: int) -> None:
        begun.append(number)
        if number == 99:
            done.set()
        if number % 3 == 0:
            await never.wait()
        elif number % 3 == 1:
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        crew = Crew(tasks)
        for number in range(100):
            crew.start_soon(lambda number=number: work(number))  # type: ignore[misc]
        with anyio.fail_after(LIMIT_S):
            await done.wait()
        tasks.cancel_scope.cancel()
    assert begun == list(range(100))


async def test_work_that_does_not_wait_takes_no_task_of_its_own() -> None:
    seen: set[int] = set()
    left, done = 1_000, anyio.Event()

    async def work() -> None:
        nonlocal left
        seen.add(anyio.get_current_task().id)
        left -= 1
        if not left:
            done.set()

    async with anyio.create_task_group() as tasks:
        crew = Crew(tasks)
        for _ in range(1_000):
            crew.start_soon(work)
        with anyio.fail_after(LIMIT_S):
            await done.wait()
        tasks.cancel_scope.cancel()
    assert len(seen) <= 3


async def test_work_that_begins_further_work_does_not_keep_the_loop_to_itself() -> None:
    async with anyio.create_task_group() as tasks:
        crew, left = Crew(tasks), 1_000_000

        async def work() -> None:
            nonlocal left
            left -= 1
            if left > 0:
                crew.start_soon(work)

        crew.start_soon(work)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert 0 < left < 1_000_000
        left = 0
        tasks.cancel_scope.cancel()


async def test_what_work_raises_ends_the_task_group() -> None:
    async def fail() -> None:
        raise LookupError

    async def begin() -> None:
        async with anyio.create_task_group() as tasks:
            Crew(tasks).start_soon(fail)
            await anyio.sleep_forever()

    with anyio.fail_after(LIMIT_S), pytest.raises(ExceptionGroup) as caught:
        await begin()
    assert isinstance(caught.value.exceptions[0], LookupError)


async def test_a_bell_wakes_all_who_wait_and_nobody_who_comes_later() -> None:
    bell, woken = Bell(), 0

    async def wait() -> None:
        nonlocal woken
        await bell.wait()
        woken += 1

    bell.ring()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert woken == 0
        bell.ring()
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert woken == 3
        bell.ring()
