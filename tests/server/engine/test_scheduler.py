"""How the scheduler shares the device, case by case; the queue: test_scheduler_queue.py, random
load: test_scheduler_simulation.py."""

from itertools import count

from server.engine.chunk_size import MAX_CHUNK, MIN_CHUNK
from server.engine.scheduler import (
    ALONE_S,
    MIN_CHUNK_ALONE,
    Admit,
    Decode,
    Prefill,
)
from tests.server.engine.scheduler_desk import GAP_S, Desk
from tests.server.engine.scheduler_simulation import Client, Device, Simulation


def chunks(run: Simulation) -> list[int]:
    return [tokens for _, tokens, _ in run.chunks]


# Prefill beside streams and alone.


def test_a_lone_prompt_comes_in_large_chunks():
    run = Simulation([Client("a", prompt=40_000, answers=(3,))], Device(token_s=0.0001)).run()
    assert min(chunks(run)[4:-1]) >= 512, "after the first ones, which show what they cost"
    assert max(chunks(run)) == MAX_CHUNK


def test_a_long_prompt_does_not_stretch_the_gap_of_a_running_stream():
    chat = Client("chat", prompt=100, answers=(600,))
    long = Client("long", prompt=30_000, answers=(1,), arrives=0.5)
    run = Simulation([chat, long]).run()
    assert run.clients["long"].finished_at is not None
    settled = chat.gaps[20:]
    assert max(settled) <= GAP_S
    beside = [gap for gap in settled if gap > 0.02]
    assert sum(beside) / len(beside) > GAP_S * 0.75, "the chunks use the room there is"


def test_chunks_shrink_as_the_context_makes_tokens_dearer():
    device = Device(token_s=0.0001, context_s=1e-8)
    chat = Client("chat", prompt=100, answers=(5000,))
    long = Client("long", prompt=100_000, answers=(1,), arrives=0.5)
    run = Simulation([chat, long], device).run()
    assert max(chat.gaps[20:]) <= GAP_S * 1.01
    beside = [tokens for at, tokens, _ in run.chunks if at > 1.0][:-1]
    assert beside[-1] < beside[5] / 3


def test_a_fixed_cost_of_chunks_does_not_hold_them_small():
    """Seconds per token of a small chunk say little about a larger one."""
    device = Device(token_s=0.0002, chunk_s=0.05)
    chat = Client("chat", prompt=16, answers=(2000,))
    run = Simulation([chat, Client("long", 20_000, (1,), arrives=0.5)], device).run()
    # Nine tenths of 120 ms less the step and the fixed part leave time for some 250 tokens.
    assert sorted(chunks(run))[len(run.chunks) // 2] >= 224
    assert max(chat.gaps[20:]) <= GAP_S * 1.05


def test_on_a_slow_device_a_newcomer_does_not_wait_long_for_a_lone_prompt():
    run = Simulation([Client("long", prompt=20_000)], Device(token_s=0.002)).run()
    assert max(seconds for _, _, seconds in run.chunks[2:]) <= ALONE_S * 1.01
    run = Simulation([Client("long", prompt=2_000)], Device(token_s=0.02)).run()
    assert chunks(run)[1:-1] == [MIN_CHUNK_ALONE] * len(chunks(run)[1:-1])


def test_no_chunk_on_a_very_slow_device_looks_like_one_that_hangs():
    """At a quarter of a second a token, 512 at once would take longer than the watchdog waits."""
    run = Simulation([Client("long", prompt=2_000)], Device(token_s=0.25)).run()
    assert max(seconds for _, _, seconds in run.chunks) <= 40
    assert chunks(run)[1:-1] == [MIN_CHUNK] * len(chunks(run)[1:-1])


def test_without_room_a_prompt_still_gets_the_least_chunk_in_every_round():
    device = Device(step_s=0.5)
    chat = Client("chat", prompt=10, answers=(400,))
    run = Simulation([chat, Client("long", 5000, (1,), arrives=1.0)], device).run()
    rounds = run.turns[run.turns.index(Admit("long")) :]
    kinds = [type(turn) for turn in rounds if not isinstance(turn, Admit)]
    assert kinds[1:101] == [Prefill, Decode] * 50
    assert set(chunks(run)[3:-1]) == {MIN_CHUNK}


def test_a_chunk_that_ran_over_shrinks_the_next_at_once_and_only_for_a_while():
    desk = Desk()
    desk.run("stream")
    desk.add("prompt", tokens=100_000)
    desk.admit("prompt")
    desk.scheduler.prefilling("prompt", 100_000)
    settled = [desk.chunk() for _ in range(20)][-1]
    assert desk.chunk(slower=3) == settled
    assert desk.chunk() <= settled / 2
    recovering = [desk.chunk() for _ in range(20)]
    assert recovering[0] < settled, "grows slowly"
    assert recovering[-1] >= settled * 0.8


def test_a_failed_turn_teaches_nothing():
    desk = Desk()
    desk.run("stream")
    desk.add("prompt", tokens=10_000)
    desk.admit("prompt")
    desk.scheduler.prefilling("prompt", 10_000)

    before = [desk.chunk() for _ in range(20)][-1]
    for _ in range(6):
        desk.chunk(slower=100, failed=True)
        desk.turn(30.0, fed=0)
    assert desk.chunk() == before


def test_more_rows_leave_less_room():
    def largest(streams: int) -> int:
        crowd = [Client(f"s{i}", 20, (300,)) for i in range(streams)]
        device = Device(step_s=0.01, row_s=0.005)
        run = Simulation([*crowd, Client("long", 20_000, (1,), arrives=1.0)], device, max_batch=16)
        run.run()
        return max(tokens for at, tokens, _ in run.chunks if 2.0 < at < 8.0)

    assert largest(12) < largest(6) < largest(1)


def test_a_new_stream_gets_its_first_token_before_others_prompts_go_on():
    desk = Desk()
    desk.run("stream")
    assert desk.turn() == Decode()
    desk.add("short", tokens=50)
    desk.add("long", tokens=9000)
    desk.admit("short")
    desk.scheduler.prefilling("short", 50)
    desk.admit("long")
    desk.scheduler.prefilling("long", 9000)
    assert desk.scheduler.next() == Prefill("short", 50)
    desk.scheduler.decoding("short")
    desk.scheduler.done(50)
    assert desk.turn() == Decode()
    assert desk.scheduler.decoding_rows == 2


def test_what_admissions_take_is_not_there_for_chunks():
    device = Device(admit_s=0.05, step_s=0.01, row_s=0.0)
    chat = Client("chat", prompt=3000, answers=(400,))
    late = [Client(f"n{i}", 5000, (1,), arrives=2.0 + i * 0.2) for i in range(6)]
    run = Simulation([chat, Client("long", 60_000, (1,), arrives=0.5), *late], device, max_batch=16)
    run.run()
    assert max(chat.gaps[20:]) <= GAP_S * 1.01


def test_a_burst_of_slow_admissions_comes_between_steps():
    device = Device(admit_s=0.05, step_s=0.01, row_s=0.0)
    chat = Client("chat", prompt=100, answers=(400,))
    burst = [Client(f"n{i}", 500, (1,), arrives=1.0) for i in range(8)]
    Simulation([chat, *burst], device, max_batch=16).run()
    assert max(chat.gaps[20:]) <= GAP_S * 1.01


def test_rows_that_join_at_the_end_of_a_chunk_are_reckoned_with():
    device = Device(step_s=0.01, row_s=0.01)
    chat = Client("chat", prompt=100, answers=(400,))
    waves = [Client(f"w{i}", 5000, (2,) * 6, arrives=1.0 + 20 * i) for i in range(4)]
    Simulation([chat, *waves], device, max_batch=8).run()
    assert max(chat.gaps[20:]) <= GAP_S * 1.01


def test_a_round_has_one_chunk_unless_it_was_cut():
    desk = Desk()
    desk.run("stream")
    desk.add("prompt", tokens=100_000)
    desk.admit("prompt")
    desk.scheduler.prefilling("prompt", 100_000)
    size = [desk.chunk() for _ in range(20)][-1]
    assert desk.turn(0.02) == Decode()
    turn = desk.turn(0.010, fed=20)  # up to where the worker takes a snapshot
    assert isinstance(turn, Prefill)
    assert turn.tokens == size
    turn = desk.turn(0.060)
    assert isinstance(turn, Prefill)
    assert size / 2 < turn.tokens < size
    assert desk.turn(0.02) == Decode()


def test_a_burst_of_cached_newcomers_shares_the_first_step():
    desk = Desk(max_batch=8)
    desk.run("stream")
    assert [desk.turn() for _ in range(3)] == [Decode()] * 3
    desk.add(*"abcde")
    for key in "abcde":
        assert desk.turn() == Admit(key)
        desk.scheduler.decoding(key)
    assert desk.turn() == Decode()
    assert desk.scheduler.decoding_rows == 6


# Prompts among each other.


def test_a_short_prompt_is_not_stuck_behind_a_long_one():
    device = Device(token_s=0.0004)
    short = Client("short", prompt=200, answers=(5,), arrives=1.0)
    run = Simulation([Client("long", prompt=100_000, answers=(5,)), short], device).run()
    assert short.first_token_s < 3 * ALONE_S
    assert (run.clients["long"].finished_at or 0) > 40


def test_a_short_prompt_is_quick_beside_streams_and_a_long_prompt_too():
    crowd = [Client(f"s{i}", 50, (800,)) for i in range(3)]
    short = Client("short", prompt=150, answers=(5,), arrives=5.0)
    Simulation([*crowd, Client("long", 60_000, (5,)), short], max_batch=8).run()
    assert short.first_token_s < 6 * GAP_S


def test_endless_short_prompts_do_not_starve_a_long_one():
    alone = Client("long", prompt=10_000, answers=(1,))
    Simulation([alone]).run()
    shorts = [Client(f"s{i}", 300, (1,), arrives=i * 0.1) for i in range(500)]
    beside = Client("long", prompt=10_000, answers=(1,))
    Simulation([beside, *shorts], max_batch=8, max_queue=3000).run()
    assert beside.first_token_s < 4 * alone.first_token_s


def test_newcomers_who_leave_at_once_do_not_keep_a_prompt_from_its_turn():
    """Fully cached, a single token each, and never any room."""
    desk = Desk(max_batch=3)
    desk.add("prompt")
    desk.admit("prompt")
    desk.scheduler.prefilling("prompt", 5000)
    names = (f"n{i}" for i in count())
    waiting: list[str] = []
    fed = 0
    for _ in range(200):
        if not desk.scheduler.full():
            waiting.append(next(names))
            desk.add(waiting[-1])
        turn = desk.turn(GAP_S)
        if isinstance(turn, Admit):
            desk.scheduler.decoding(turn.key)
        elif isinstance(turn, Decode):
            for key in [key for key in waiting if key in desk.scheduler._active]:
                desk.scheduler.remove(key)
        elif isinstance(turn, Prefill):
            fed += turn.tokens
    assert fed >= 200 / 10 * MIN_CHUNK
