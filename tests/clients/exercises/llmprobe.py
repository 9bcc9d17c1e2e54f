"""llmprobe: a suite for inference servers that grew out of the Open Responses compliance tests.

Only what it says of the server counts, not its questions to the model. Where the model would not
play along it says "inconclusive", which is a note here; what a server does not have (images) is
"unsupported" and no check, unless the server failed on it.
"""

import json
import os
import subprocess
from pathlib import Path

from report import KEY, MODEL, URL, check, expect

REPORT = Path(os.environ["HOME"]) / "report.json"
PARTS = {"models", "chat", "responses", "messages", "count-tokens", "completions"}
results: list[dict] = []


@check("runs")
def runs() -> None:
    done = subprocess.run(
        ["llmprobe", URL, "-k", KEY, "-m", MODEL, "--full", "--no-bench", "--no-save",
         "--no-color", "--reasoning", "default", "--timeout", "240", "--save", str(REPORT)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1100,
    )  # fmt: skip
    expect(REPORT.exists(), done.stderr[-300:] + done.stdout[-300:])
    results.extend(json.loads(REPORT.read_text())["conformance"]["results"])
    passed = {result["surface"] for result in results if result["outcome"] == "pass"}
    expect(passed >= PARTS, passed)


for result in results:
    reason = result.get("reason") or ""
    if result["outcome"] in ("pass", "fail") or "HTTP 5" in reason:

        @check(result["name"])
        def one(result: dict = result, reason: str = reason) -> None:
            found = {failure["message"] for failure in result["failures"]}
            expect(result["outcome"] == "pass", "; ".join(sorted(found)) or reason)
    elif result["outcome"] == "inconclusive":
        print(f"note: {result['name']}: {reason}", flush=True)
