"""`mxserve service`: a server that launchd or systemd starts at login and again when it fails."""

from server.service.command import main

__all__ = ["main"]
