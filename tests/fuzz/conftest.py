"""The same examples in every run; with INTERP_FUZZ=5000 so many new ones a test."""

import os

from hypothesis import HealthCheck, settings

unhurried = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
settings.register_profile("fixed", derandomize=True, max_examples=60, database=None, **unhurried)
settings.register_profile("more", max_examples=int(os.environ.get("INTERP_FUZZ") or 1), print_blob=True, **unhurried)
settings.load_profile("more" if os.environ.get("INTERP_FUZZ") else "fixed")
