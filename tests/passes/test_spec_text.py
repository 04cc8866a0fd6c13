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
    type(None): st.none(),
}
# Parameters that do not take any value of their type.
METHODS = st.sampled_from(("greedy", "percentile(99.9)", "ema(0.5)", "minmax"))
PARTICULAR = {
    ("calibrate", "method"): METHODS | st.none(),
    ("calibrate", "per_layer"): st.just("") | METHODS.map("a*:mse;*/b,c:{}".format),
    ("calibrate", "bins"): st.integers(64, 8192),
    ("calibrate", "samples"): st.integers(1) | st.none(),
    ("calibrate", "ranges"): VALUES[str] | st.none(),
    ("auto", "labels"): VALUES[str] | st.none(),
    ("auto", "max_drop"): st.floats(1e-3, 100),
    ("equalize", "mode"): st.sampled_from(("exact", "fill")),
    ("reconstruct", "rounding"): st.sampled_from(("gptq", "descent", "nearest")),
    ("reconstruct", "scale"): st.sampled_from(("minmax", "search")),
    ("reconstruct", "weights"): st.sampled_from(("auto", "per-channel", "per-tensor")),
    ("reconstruct", "samples"): st.integers(8),
    ("reconstruct", "refit"): st.sampled_from(("auto", "true", "false")),
    ("reconstruct", "bits"): st.sampled_from((4, 8)),
    ("remove_dw_bn", "max_drop_db"): st.floats(0, 100),
    ("svd_factorize", "energy"): st.floats(0.1, 1) | st.none(),
    **{("svd_factorize", k): st.none() for k in ("rank", "speedup")},
    **{("set_nms", k): st.floats(0, 1) | st.none() for k in ("iou", "score")},
    ("set_nms", "max_detections"): st.integers(1, 10_000) | st.none(),
    ("resize_input", "size"): st.sampled_from(("236", "320x240")),
    ("round_geometry", "what"): st.sampled_from(("channels", "spatial", "all")),
    ("round_geometry", "multiple"): st.sampled_from((4, 8, 16, 32)),
}


@given(data=st.data(), name=st.sampled_from(sorted(all_passes())))
def test_a_pass_as_text_parses_back(data: st.DataObject, name: str) -> None:
    cls = all_passes()[name]
    values = {}
    for f in fields(cls):
        key = (name, f.name)
        values[f.name] = data.draw(PARTICULAR[key] if key in PARTICULAR
                                   else VALUES[type(f.default)])  # fmt: skip
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
