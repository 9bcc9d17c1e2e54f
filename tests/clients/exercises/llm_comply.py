"""llm-comply: answers held against each vendor's published schema, stricter than any client is."""

import json
import subprocess

from relay import Relay
from report import KEY, MODEL, ROOT, check, expect

# It sets no limit, and the demo sometimes goes on for minutes.
URL = f"{Relay(ROOT).url}/v1"


def told(form: str) -> list[dict]:
    """The suite's own results for one format."""
    done = subprocess.run(
        ["llm-comply", "--format", form, "-u", URL, "-k", KEY, "-m", MODEL, "--json",
         "--timeout", "120"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    return json.loads(done.stdout)["results"]


for form in ("openai-chat", "open-responses", "anthropic"):
    results: list[dict] = []

    @check(f"{form}: runs")
    def runs(form: str = form, results: list[dict] = results) -> None:
        results += told(form)
        expect(results, "no results")

    for result in results:
        if result["status"] != "skipped":

            @check(f"{form}: {result['id']}")
            def one(result: dict = result) -> None:
                found = sorted(set(result.get("errors") or []))
                expect(result["status"] == "passed" and not found, "; ".join(found))
