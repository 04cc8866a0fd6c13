from __future__ import annotations

import string
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfrewrite.errors import PassError
from qfrewrite.passes import all_passes, make_passes
from qfrewrite.solve.parameters import Parameter, Within, parameters

TEXT = st.text(string.ascii_letters + string.digits + "_*/,()= ", min_size=1).filter(str.strip)
# What is read by a rule of its own.
READ = {
    "method": st.sampled_from(("greedy", "percentile(99.9)", "ema(0.5)", "minmax")),
    "per_layer": st.sampled_from(("", "a*:mse", "a*:mse;*/b,c:greedy")),
    "size": st.sampled_from(("236", "320x240")),
}


def values_of(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Values that a parameter takes, as it declares them."""
    if parameter.choices:
        return st.sampled_from(parameter.choices)
    (kind,) = parameter.kinds
    if parameter.name in READ:
        values = READ[parameter.name]
    elif kind in (int, float):
        (limit,) = parameter.limits
        assert isinstance(limit, Within)
        low, high = limit.low, min(limit.high, 10**6)
        values = (
            st.integers(ceil(low) + limit.above, int(high))
            if kind is int
            else st.floats(low, high, exclude_min=limit.above)
        )
    else:
        values = st.booleans() if kind is bool else TEXT.map(str.strip)
    return values | st.none() if parameter.optional else values


@given(data=st.data(), name=st.sampled_from(sorted(all_passes())))
def test_a_pass_as_text_parses_back(data: st.DataObject, name: str) -> None:
    cls = all_passes()[name]
    values = {p.name: data.draw(values_of(p)) for p in parameters(cls)}
    if name == "svd_factorize":  # of these only one may be given
        values |= dict.fromkeys(("rank", "speedup"))
    one = cls(**values)
    assert make_passes(f"{one},{one}") == [one, one]


def test_every_number_has_bounds() -> None:
    for name, cls in all_passes().items():
        for parameter in parameters(cls):
            if not parameter.choices and {int, float} & set(parameter.kinds):
                assert parameter.limits, f"{name}({parameter.name}) takes any number"


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
        ("calibrate(method=best)", "no such method: 'best'"),
        ("calibrate(method=percentile(101))", "up to 100"),
        ("calibrate(method=mse(3))", "takes none"),
        ("calibrate(per_layer=mse)", "no pattern"),
        ("calibrate(bins=3)", "64 to 8192"),
        ("calibrate(samples=0)", "1 or more"),
        ("remove_dw_bn(max_drop_db=-1)", "0 or more"),
        ("remove_dw_bn(max_drop_db=nan)", "0 or more"),
        ("reconstruct(bits=6)", "use one of 4, 8"),
        ("reconstruct(refit=yes)", "use one of auto, false, true"),
        ("equalize(mode=best)", "equalize: mode=best; use one of exact, fill"),
        ("absorb_dead_channels(tol=-1)", "give 0 to 1"),
        ("equalize(power=1.5)", "give 0 to 1"),
        ("equalize(sweeps=0)", "1 or more"),
        ("relu6_to_relu(max_clip=2)", "give 0 to 1"),
        ("relu6_to_relu(max_growth=0.5)", "1 or more"),
        ("relu6_to_relu(min_sqnr=-3)", "0 or more"),
        ("auto(max_drop=0)", "above 0 to 100"),
        ("resize_input(size=big)", "WIDTHxHEIGHT"),
        ("remove_dw_bn(layers=all", "')' is missing"),
        ("remove_dw_bn)", "closes nothing"),
        ("remove_dw_bn(all)", "key=value"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(PassError) as caught:
        make_passes(text)
    assert words in str(caught.value)
