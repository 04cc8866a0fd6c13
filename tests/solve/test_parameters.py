"""Parameters follow from the annotations of a pass: read from text, checked, shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.errors import UsageError
from qfrewrite.passes import all_passes
from qfrewrite.solve.parameters import Reads, Within, parameters


def _number(text: str) -> int:
    if not text.isdigit():
        raise UsageError("is no number", remedy="give digits")
    return int(text)


@dataclass(frozen=True)
class Example:
    """One parameter of each form."""

    mode: Literal["fast", "exact"] = "exact"
    bits: Literal[4, 8] = 8
    rate: Annotated[float, Within(0, 1, above=True)] = 0.5
    count: Annotated[int, Within(1)] | None = None
    size: Annotated[str, Reads(_number, "digits")] = "1"
    on: bool = True


BY_NAME = {one.name: one for one in parameters(Example)}


@pytest.mark.parametrize(("name", "text", "value"), [
    ("mode", "fast", "fast"), ("bits", "4", 4), ("rate", "1", 1.0), ("count", "7", 7),
    ("count", "none", None), ("count", "", None), ("size", "236", "236"), ("on", "No", False),
])  # fmt: skip
def test_text_becomes_a_value_of_the_annotated_type(name: str, text: str, value: Any) -> None:
    read = BY_NAME[name].read(text, quoted=False, where="example")
    assert (read, type(read)) == (value, type(value))
    BY_NAME[name].check(read, "example")


@pytest.mark.parametrize(("name", "value", "message"), [
    ("mode", "best", "example: mode=best; use one of exact, fast"),
    ("bits", 6, "example: bits=6; use one of 4, 8"),
    ("rate", 0.0, "example: rate=0.0; give above 0 to 1"),
    ("rate", 1.5, "example: rate=1.5; give above 0 to 1"),
    ("rate", math.nan, "example: rate=nan; give above 0 to 1"),
    ("count", 0, "example: count=0; give 1 or more"),
    ("size", "big", "example: is no number; give digits"),
])  # fmt: skip
def test_what_a_parameter_does_not_take_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        BY_NAME[name].check(value, "example")
    assert str(caught.value) == message


def test_a_word_in_quotes_is_text() -> None:
    """Fails if `none` in quotes becomes no value: a file may have that name."""
    ranges = {one.name: one for one in parameters(all_passes()["calibrate"])}["ranges"]
    assert ranges.read("none", quoted=True, where="calibrate") == "none"
    assert ranges.read("none", quoted=False, where="calibrate") is None


def test_values_are_shown_with_the_default_first() -> None:
    assert {name: str(one) for name, one in BY_NAME.items()} == {
        "mode": "exact | fast", "bits": "8 | 4", "rate": "float (above 0 to 1)",
        "count": "int (1 or more) or none", "size": "str (digits)", "on": "bool",
    }  # fmt: skip


@given(st.floats(allow_nan=False), st.floats(-9, 9), st.floats(-9, 9), st.booleans())
def test_bounds(value: float, low: float, high: float, above: bool) -> None:
    inside = (low < value if above else low <= value) and value <= high
    if inside:
        Within(low, high, above).check("x", value)
    else:
        with pytest.raises(UsageError):
            Within(low, high, above).check("x", value)


def test_no_pass_checks_its_parameters_by_hand() -> None:
    for cls in all_passes().values():
        if cls.__module__.startswith("qfrewrite."):
            assert "__post_init__" not in vars(cls), cls.name


def test_a_pass_that_is_made_in_python_is_checked_too() -> None:
    with pytest.raises(UsageError, match="use one of"):
        all_passes()["equalize"](mode="best")
