"""The former name of scheduler.py, for the two modules that still import it."""

from server.engine.scheduler import Admit, Decode, Prefill, Scheduler, Turn

__all__ = ["Admit", "Decode", "Prefill", "Scheduler", "Turn"]
