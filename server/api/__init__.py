"""One module per wire dialect, thin: wire shapes <-> the engine's one request and event stream.

Knows HTTP and the engine's request, events and errors; never how a request is run.
"""
