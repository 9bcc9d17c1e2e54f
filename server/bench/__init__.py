"""The benchmark: measures servers over HTTP as their users meet them, mxserve and its peers alike.

Knows the OpenAI wire and how to start servers; shares no code with the server it measures.
"""

from server.bench.command import main

__all__ = ["main"]
