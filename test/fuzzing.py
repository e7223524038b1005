"""What tests with hostile input share: examples, numbers, how long an error may be."""

import math

from hypothesis import HealthCheck, settings, strategies as st

from taolora_ros.samples import NANOSECONDS

START_NS = 1_700_000_000 * NANOSECONDS
LONGEST = 500  # characters of an error: it has to fit a log line, whatever a message held

# the same examples in every run, so that a failure here is a change of the code
fuzz = settings(derandomize=True, deadline=None, max_examples=60, database=None,
                suppress_health_check=list(HealthCheck))

WILD = [0.0, -1.0, 1e-308, 1e30, 1e308, -1e308, math.inf, -math.inf, math.nan]
numbers = st.one_of(st.sampled_from(WILD), st.floats())
