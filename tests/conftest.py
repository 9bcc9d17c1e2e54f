"""Settings that all tests share."""

from hypothesis import settings

# A shared or slow machine must not fail a property test for its time; pytest's own limit stays.
settings.register_profile("mxserve", deadline=None)
settings.load_profile("mxserve")
