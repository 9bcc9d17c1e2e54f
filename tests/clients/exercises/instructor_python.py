"""instructor: a typed answer in each of its modes, whole and streamed in parts."""

from typing import Any

import instructor
import openai
from pydantic import BaseModel
from report import KEY, MODEL, SPAIN_AS_JSON, URL, check, expect

ITALY_AS_JSON = "Give the capital of Italy as JSON."
MESSAGES: Any = [{"role": "user", "content": SPAIN_AS_JSON}]


class Capital(BaseModel):
    """The capital of a country."""

    country: str
    capital: str


def client(mode: instructor.Mode) -> Any:
    inner = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
    return instructor.from_openai(inner, mode=mode)


def ask(mode: instructor.Mode, **fields: Any) -> Any:
    return client(mode).chat.completions.create(
        model=MODEL, messages=MESSAGES, response_model=Capital, max_retries=0, temperature=0,
        max_tokens=500, **fields,
    )  # fmt: skip


@check("structured output by json_schema")
def schema() -> None:
    answer = ask(instructor.Mode.JSON_SCHEMA)
    # instructor answers with a class of its own made from ours, which equals no instance of ours.
    expect(isinstance(answer, Capital), type(answer))
    expect(answer.model_dump() == {"country": "Spain", "capital": "Madrid"}, answer)


@check("structured output by a forced tool")
def tools() -> None:
    expect(isinstance(ask(instructor.Mode.TOOLS), Capital))


@check("structured output by a strict tool")
def strict() -> None:
    expect(isinstance(ask(instructor.Mode.TOOLS_STRICT), Capital))


@check("structured output by json_object")
def loose() -> None:
    try:
        answer = ask(instructor.Mode.JSON)
    except instructor.core.InstructorRetryException as failed:
        # Any object is right here: which keys it has is the model's affair.
        expect("Field required" in str(failed), failed)
    else:
        expect(isinstance(answer, Capital), answer)


@check("partial answers, streamed")
def partial() -> None:
    parts = list(client(instructor.Mode.JSON_SCHEMA).chat.completions.create_partial(
        model=MODEL, messages=MESSAGES, response_model=Capital, max_retries=0, temperature=0,
    ))  # fmt: skip
    expect(len(parts) > 1 and parts[-1].capital == "Madrid", parts[-1:])


@check("usage and second turn cached")
def cached() -> None:
    def turn(messages: Any) -> tuple[Any, Any]:
        return client(instructor.Mode.JSON_SCHEMA).chat.completions.create_with_completion(
            model=MODEL, messages=messages, response_model=Capital, max_retries=0, temperature=0,
        )  # fmt: skip

    asked: Any = [{"role": "system", "content": "You are a helper of instructor."}, *MESSAGES]
    _, first = turn(asked)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    answer, second = turn([*asked, said, {"role": "user", "content": ITALY_AS_JSON}])
    expect(answer.capital == "Rome", answer)
    tokens = second.usage.prompt_tokens_details.cached_tokens
    expect(tokens >= first.usage.prompt_tokens, second.usage)


@check("errors")
def errors() -> None:
    try:
        ask(instructor.Mode.JSON_SCHEMA, presence_penalty=9)
    except Exception as bad:
        expect("presence_penalty" in str(bad), bad)
    else:
        expect(False, "presence_penalty 9 was taken")
