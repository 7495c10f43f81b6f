"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

# Derandomised: a run on a slow shared machine fails for the same reasons as any other run, or not at all.
settings.register_profile(
    "bsszoo", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bsszoo")
