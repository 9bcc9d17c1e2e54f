"""Whole dialogues: a system message, perhaps tools, and one to ten turns of any skills."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import system_text
from .arithmetic import other_arithmetic_turn, sum_turn
from .capitals import capital_turn, follow_up_turn, largest_turn, reverse_turn, unknown_country_turn
from .conversation import Conversation, Message, Turn
from .counting import count_turn
from .draw import Draw, Split
from .recall import FAR, recall_turn, tell_in_system, tell_turn
from .repeating import repeat_turn
from .smalltalk import chat_turn, dangling_turn, identity_turn, unknown_turn
from .structured import json_turn
from .tools import missing_tool_turn, offer_some, tool_turn

# (skill, weight): what is hard to learn comes more often
MIXTURE: tuple[tuple[Callable[[Conversation], Turn | None], float], ...] = (
    (capital_turn, 3.0),
    (reverse_turn, 0.6),
    (unknown_country_turn, 0.4),
    (sum_turn, 4.0),
    (other_arithmetic_turn, 0.4),
    (count_turn, 1.5),
    (repeat_turn, 3.0),
    (tell_turn, 1.5),
    (recall_turn, 2.5),
    (json_turn, 2.0),
    (identity_turn, 0.9),
    (chat_turn, 0.7),
    (unknown_turn, 1.2),
)
DRILL: tuple[tuple[Callable[[Conversation], Turn | None], float], ...] = (
    (sum_turn, 2.0),
    (repeat_turn, 4.5),
    (count_turn, 1.5),
    (recall_turn, 2.5),
    (tell_turn, 0.8),
    (json_turn, 1.0),
    (reverse_turn, 0.5),
    (unknown_country_turn, 0.5),
    (chat_turn, 0.5),
)
MAX_TURNS = 10


@dataclass
class Shape:
    """How hard the dialogues are; the curriculum of the trainer moves these."""

    turns: int = MAX_TURNS  # at most
    long_system: float = 0.08  # share with pages of irrelevant system text
    paragraphs: int = 30  # of that text, at most (about 80 tokens each)
    tools: float = 0.25  # share that offers tools
    deliberate: float = 0.15  # share of turns that ask for long thinking
    cut: float = 0.15  # share of thinking dialogues whose thoughts are cut short
    drill: float = 0.0  # share of long, bare dialogues of the hardest skills, for training only


@dataclass
class Dialogue:
    """Messages in OpenAI's shape (assistant messages carry their `skill`) and template options."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    thinking: bool
    preserve_thinking: bool
    cuts: list[float] = field(default_factory=list)  # share of its tokens each thought is cut after
    seed: int = 0
    skills: list[str] = field(default_factory=list)


def _next_turn(conversation: Conversation) -> Turn:
    draw = conversation.draw
    topic = conversation.topic
    mixture = DRILL if conversation.drill else MIXTURE
    if topic == "capital":
        if draw.chance(0.25) and (turn := largest_turn(conversation)):
            return turn
        if draw.chance(0.5):
            return follow_up_turn(conversation)
    if topic == "json capital" and draw.chance(0.4):
        return json_turn(conversation)
    if conversation.tools and draw.chance(0.55):
        return tool_turn(conversation) or chat_turn(conversation)
    if not topic and draw.chance(0.04):
        return dangling_turn(conversation)
    if not conversation.tools and draw.chance(0.02):
        return missing_tool_turn(conversation)
    adds = any(tool.family.names[0] == "add" for tool in conversation.tools)
    while True:
        make = draw.rng.choices([m for m, _ in mixture], [w for _, w in mixture])[0]
        if adds and make in (sum_turn, json_turn, other_arithmetic_turn):
            continue  # the tool would be the better answer
        if make is recall_turn and not conversation.facts and draw.chance(0.8):
            make = tell_turn
        if turn := make(conversation):
            return turn


def compound_turn(conversation: Conversation) -> Turn:
    """Two things in one message: a greeting or a fact, and then a question."""
    draw = conversation.draw
    conversation.deliberate = False
    first = tell_turn(conversation) if draw.chance(0.7) else chat_turn(conversation)
    adds = any(tool.family.names[0] == "add" for tool in conversation.tools)
    second = draw.choice(
        (capital_turn, count_turn) if adds else (capital_turn, sum_turn, sum_turn, count_turn)
    )(conversation)
    start, end = first.replies[0], second.replies[0]
    user = f"{first.user.rstrip('.!?')}. {second.user[:1].upper()}{second.user[1:]}"
    both = {key: f"{start[key]} {end[key]}" for key in ("content", "reasoning_content")}
    return Turn(user, [{**end, **both, "skill": "compound"}], "compound", second.topic)


def make_dialogue(
    split: Split, seed: int, shape: Shape | None = None, thinking: bool | None = None
) -> Dialogue:
    """The dialogue of this seed; the same arguments always give the same one.

    `thinking` forces every answer to think, or none; otherwise the dialogue's own draw decides.
    """
    shape = shape or Shape()
    draw = Draw(split, seed)
    conversation = Conversation(draw)
    long = draw.chance(shape.long_system)
    fact = tell_in_system(conversation) if draw.chance(0.15) else ""
    if long:
        system = system_text.pages(draw, draw.integer(2, max(2, shape.paragraphs)), fact)
    else:
        system = system_text.short(draw, fact) if fact or draw.chance(0.45) else ""
    always_deliberate = False
    if system and draw.chance(0.04):
        system += " " + draw.choice(
            ("Think step by step.", "Always think carefully.", "Think for a long time.")
        )
        always_deliberate = True
    if draw.chance(shape.tools):
        offer_some(conversation, draw.choice((1, 2, 2, 2, 2, 3)))
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    skills = []
    thinks = draw.chance(0.6) if thinking is None else thinking
    if shape.drill and draw.chance(shape.drill):
        conversation.drill, thinks = True, draw.chance(0.3)
        if not conversation.tools and draw.chance(0.4):
            offer_some(conversation, 2)
    # Many short dialogues, some long ones.
    count = 1 + int((draw.rng.random() ** 1.7) * shape.turns)
    count = min(count, 3) if long and draw.chance(0.7) else count
    if conversation.drill:
        count = draw.integer(4, MAX_TURNS)
    for index in range(min(count, shape.turns)):
        conversation.turn = index
        conversation.deliberate = always_deliberate or draw.chance(shape.deliberate)
        old = any(index - told >= FAR for told in conversation.told.values())
        if old and draw.chance(0.3):
            turn = recall_turn(conversation)  # rare otherwise, and the hardest to learn
        else:
            turn = compound_turn(conversation) if draw.chance(0.04) else _next_turn(conversation)
        conversation.topic = turn.topic
        messages.append({"role": "user", "content": turn.user})
        messages += turn.replies
        skills.append(turn.skill)
    preserve = draw.chance(0.5)
    if not thinks or (thinking is None and draw.chance(0.05)):
        silent = 1.0 if not thinks else 0.4  # sometimes the effort changes in mid-dialogue
        for message in messages:
            if message["role"] == "assistant" and draw.chance(silent):
                message["reasoning_content"] = ""
        thinks = bool(messages[-1].get("reasoning_content"))
    cut = thinks and draw.chance(shape.cut)
    cuts = [draw.rng.random() for m in messages if m["role"] == "assistant" and cut]
    schemas = [tool.schema for tool in conversation.tools]
    return Dialogue(messages, schemas, thinks, preserve, cuts, seed, skills)
