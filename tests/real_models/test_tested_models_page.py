"""The page of tested models says what is tested."""

from real_case import TABLE
from real_table import MODULES, PAGE, page


def test_the_page_is_that_of_the_table():
    assert PAGE.read_text() == page(), "write it anew: python tests/real_models/real_table.py"


def test_there_are_at_least_sixty_cases_that_need_nothing_optional():
    assert len(MODULES) == 6
    assert sum(entry.needs in ("", "transformers") for entry in TABLE.values()) >= 60
