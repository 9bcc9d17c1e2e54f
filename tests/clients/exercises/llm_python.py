"""`llm`, the command, with a model of its extra-openai-models.yaml."""

import json
import os
import subprocess
import sys
from pathlib import Path

from report import FRANCE, ITALY, KEY, MODEL, SPAIN_AS_JSON, URL, WEATHER_IN_PARIS, check, expect

HOME = Path(os.environ["HOME"]) / "llm"
HOME.mkdir()
(HOME / "extra-openai-models.yaml").write_text(
    f"- model_id: mx\n  model_name: {MODEL}\n  api_base: {URL}\n  api_key_name: mxserve\n"
    "  supports_schema: true\n  supports_tools: true\n"
)
(HOME / "keys.json").write_text(json.dumps({"mxserve": KEY}))
TOOL = """def get_weather(city: str) -> str:
    "Get the weather in a city."
    return '{"temperature": 21, "condition": "sunny"}'
"""


def llm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "llm"), *arguments]
    env = {**os.environ, "LLM_USER_PATH": str(HOME)}
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def said(*arguments: str) -> str:
    done = llm(*arguments)
    expect(done.returncode == 0, done.stderr)
    return done.stdout


@check("plain and streamed")
def plain() -> None:
    expect("Paris" in said("-m", "mx", "--no-stream", FRANCE), "whole")
    expect("Paris" in said("-m", "mx", FRANCE), "streamed")


@check("second turn cached")
def second() -> None:
    said("-m", "mx", FRANCE)
    expect("Rome" in said("-c", ITALY), "continued")
    usage = json.loads(said("logs", "list", "-n", "1", "--json"))[0]
    expect(usage["input_tokens"] > 0 and usage["output_tokens"] > 0, usage)
    details = json.loads(usage["token_details"])
    expect(details["prompt_tokens_details"]["cached_tokens"] > 0, usage)


@check("tool round trip")
def tools() -> None:
    answer = said("-m", "mx", "--functions", TOOL, "--td", WEATHER_IN_PARIS)
    expect("21" in answer, answer)


@check("structured output")
def structured() -> None:
    answer = json.loads(said("-m", "mx", "--schema", "country str, capital str", SPAIN_AS_JSON))
    expect(set(answer) == {"country", "capital"}, answer)


@check("errors")
def errors() -> None:
    done = llm("-m", "mx", "-o", "presence_penalty", "1.9", "-o", "max_tokens", "0", FRANCE)
    expect(done.returncode != 0 and "max_tokens" in done.stderr, (done.returncode, done.stderr))
