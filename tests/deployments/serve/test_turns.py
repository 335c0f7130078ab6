import asyncio

import pytest

from deployments.serve.turns import Turns


async def taking(turns: Turns, order: list[str], name: str, *, behind: bool) -> asyncio.Task[None]:
    """A task that wants a turn, and has asked for it."""

    async def take() -> None:
        async with turns.turn(behind=behind):
            order.append(name)
            await asyncio.sleep(0)

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    return task


async def test_whoever_is_waited_for_comes_before_what_is_behind() -> None:
    turns, order = Turns(1), list[str]()
    async with turns.turn(behind=True):
        tasks = [await taking(turns, order, f"upload {number}", behind=True) for number in range(20)]
        tasks += [await taking(turns, order, f"live {number}", behind=False) for number in range(2)]
        assert order == []
    await asyncio.gather(*tasks)

    assert order == ["live 0", "live 1", *(f"upload {number}" for number in range(20))]


@pytest.mark.parametrize("at_once", [1, 3])
async def test_no_more_than_so_many_at_once_and_none_is_forgotten(at_once: int) -> None:
    turns, inside, most = Turns(at_once), 0, 0

    async def take(number: int) -> None:
        nonlocal inside, most
        async with turns.turn(behind=number % 2 == 0):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(take(number) for number in range(30)))
    assert (inside, most) == (0, at_once)


async def test_who_gives_up_waiting_or_at_the_moment_of_its_turn_holds_no_turn() -> None:
    turns, order = Turns(1), list[str]()
    async with turns.turn(behind=False):
        waits = await taking(turns, order, "gives up waiting", behind=False)
        is_next = await taking(turns, order, "gives up at its turn", behind=False)
        waits.cancel()
        await asyncio.sleep(0)
    is_next.cancel()  # it was let in just now
    after = await taking(turns, order, "after", behind=True)
    await asyncio.wait_for(after, 5)

    assert order == ["after"]
