"""Passes in any order, on random networks: what comes out obeys the specification and runs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_network

from qfrewrite.analyze.costs import model_cost
from qfrewrite.data.source import synthetic
from qfrewrite.formats.tflite.write import serialize
from qfrewrite.ir import Model
from qfrewrite.lower.model import lower_model
from qfrewrite.lower.scheme import QuantOptions
from qfrewrite.lower.spec_check import check_model
from qfrewrite.passes import Dataset, PassContext, run_passes
from qfrewrite.runtime.session import Runner, input_specs

PASSES = (
    "absorb_dead_channels(remove=true)", "round_geometry", "round_geometry(down=true)",
    "round_geometry(multiple=16,force=true)", "svd_factorize(energy=0.9)",
    "svd_factorize(speedup=1.2)", "equalize", "absorb_bias", "remove_dw_bn(max_drop_db=3)",
    "relu6_to_relu", "reconstruct(samples=8)",
)  # fmt: skip


@settings(max_examples=30)
@given(data=st.data())
def test_passes_compose(data: st.DataObject) -> None:
    graph = random_network(data)
    chosen = data.draw(st.lists(st.sampled_from(PASSES), min_size=1, max_size=4, unique=True))
    scheme = data.draw(st.sampled_from(("int8", "uint8", "int16x8")))
    options = QuantOptions(scheme, data.draw(st.booleans(), label="per channel"))
    seen, fresh = (synthetic(input_specs(graph), 8, seed=s) for s in (1, 2))
    ranged = any(name.startswith("reconstruct") for name in chosen)
    model = Model([graph], source="graphdef")
    context = PassContext(Dataset(seen, fresh, held_out=True), threads=1, quant=options)
    run_passes(model, ",".join([*chosen, *(() if ranged else ("calibrate",))]), context)
    lowered, _ = lower_model(model, options)
    assert check_model(lowered) == []
    runner = Runner(serialize(lowered), threads=1)
    for sample in synthetic(runner.inputs, 1):
        assert runner.run(sample)[0].shape == graph.outputs[0].shape
    assert model_cost(lowered).total("macs") > 0
