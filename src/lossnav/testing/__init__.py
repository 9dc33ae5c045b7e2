"""Laws that somebody else's chart, sampler or engine must pass to work everywhere in lossnav.

Subclass them in a test, for pytest or any other runner that collects ``test_`` methods::

    from lossnav.testing import ChartLaws

    class TestMyChart(ChartLaws):
        def make(self):
            return MyChart(a, b)

or call all of them at once: ``check_chart(lambda: MyChart(a, b))``. No test runner is imported.
"""

from lossnav.testing.charts import ChartLaws, check_chart
from lossnav.testing.engines import EngineLaws, check_engine
from lossnav.testing.laws import Laws
from lossnav.testing.samplers import SamplerLaws, check_sampler

__all__ = ["ChartLaws", "EngineLaws", "Laws", "SamplerLaws", "check_chart", "check_engine", "check_sampler"]
