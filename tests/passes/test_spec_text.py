from __future__ import annotations

import string
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.errors import PassError
from qfrewrite.passes import all_passes, make_passes

TEXT = st.text(string.ascii_letters + string.digits + "_*/,()= ", min_size=1).filter(str.strip)
VALUES = {
    bool: st.booleans(),
    float: st.floats(0, 1e6),
    int: st.integers(),
    str: TEXT.map(str.strip),
}


@given(data=st.data(), name=st.sampled_from(sorted(all_passes())))
def test_a_pass_as_text_parses_back(data: st.DataObject, name: str) -> None:
    cls = all_passes()[name]
    values = {f.name: data.draw(VALUES[type(f.default)]) for f in fields(cls)}
    one = cls(**values)
    assert make_passes(f"{one},{one}") == [one, one]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fold_bm", "did you mean 'fold_bn'"),
        ("", "empty"),
        ("fold_bn,", "pass name"),
        ("fold_bn(x=1)", "takes no parameters"),
        ("remove_dw_bn(layer=all)", "did you mean 'layers'"),
        ("relu6_to_relu(force=perhaps)", "not a valid bool"),
        ("relu6_to_relu(max_clip=much)", "not a valid float"),
        ("remove_dw_bn(layers=all", "')' is missing"),
        ("remove_dw_bn)", "closes nothing"),
        ("remove_dw_bn(all)", "key=value"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(PassError) as caught:
        make_passes(text)
    assert words in str(caught.value)
