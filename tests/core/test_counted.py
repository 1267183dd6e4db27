import pytest

from virtiod.core.counted import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 bdevs"), (1, "1 bdev"), (2, "2 bdevs")])
def test_a_noun_is_singular_for_one_only(number: int, text: str) -> None:
    assert counted(number, "bdev") == text
