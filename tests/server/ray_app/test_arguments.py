import re
from pathlib import Path

import pytest

from llamacart.errors import InputError
from llamacart_server.ray_app.arguments import FleetSettings, read_arguments

PAGE = Path(__file__).parents[3] / "docs" / "fleet.md"


def test_arguments_are_of_two_kinds():
    fleet, settings = read_arguments({"num_cpus": "2", "min_replicas": "3", "parallel": "4"})
    assert (fleet.num_cpus, fleet.min_replicas, fleet.max_replicas) == (2, 3, 3)
    assert settings.parallel == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"affinity": "luck"}, "affinity has value 'luck'"),
        ({"max_replicas": 0}, "max_replicas has value 0"),
        ({"paralel": 3}, "there is no setting 'paralel'; did you mean 'parallel'"),
    ],
)
def test_settings_that_cannot_be(given, said):
    with pytest.raises(InputError, match=said):
        read_arguments(given)


def test_the_page_has_every_argument():
    rows = re.findall(r"^\| (`.*`) \| .* \| .* \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    named = {name for row in rows for name in re.findall("`(\\w+)`", row)}
    assert named >= FleetSettings.model_fields.keys()
