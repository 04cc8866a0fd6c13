"""Models with several entry points: each signature is calibrated, on data of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import normal

import qfrewrite as qf
from qfrewrite.cli.main import run
from qfrewrite.data.source import synthetic
from qfrewrite.errors import DataError
from qfrewrite.formats.tflite.read import read_tflite
from qfrewrite.formats.tflite.write import serialize, write_tflite
from qfrewrite.ir import Array, Graph, Model, Op, Signature, Tensor
from qfrewrite.ops.build import GraphBuilder
from qfrewrite.ops.subgraphs import entries
from qfrewrite.runtime.metrics import collect, compare
from qfrewrite.runtime.session import Runner, input_specs

W = normal(8, 8, scale=0.4, seed=1)


def entry(name: str, batch: int) -> Graph:
    """RELU(x W^T) + cache, with names of its own."""
    b = GraphBuilder(name)
    x, cache = b.input(f"{name}_x", (batch, 8)), b.input(f"{name}_cache", (batch, 8))
    y = b.op("FULLY_CONNECTED", x, b.const("w", W), None, name=f"{name}_dense")
    y = b.op("RELU", y, name=f"{name}_relu")
    return b.finish(b.op("ADD", y, cache, name=f"{name}_y"))


def model(*, looped: bool = False) -> Model:
    """Signatures `prefill` and `decode`; looped: the second one runs a subgraph."""
    graphs = [entry("prefill", 4), entry("decode", 1)]
    if looped:
        attrs = {"cond_subgraph_index": 2, "body_subgraph_index": 3}
        second = graphs[1]
        (y,) = second.outputs
        out = Tensor("decode_loop", y.shape)
        second.add_op(Op("WHILE", [y], [out], attrs, name="loop"))
        second.set_io(outputs=[out])
        cond, body = Graph("cond"), GraphBuilder("body")
        end = Tensor("end", (1,), "bool", np.zeros(1, bool))
        cond.add_tensor(end)
        cond.set_io([Tensor("v", y.shape)], [end])
        graphs += [cond, body.finish(body.op("ABS", body.input("u", y.shape)))]
    signatures = [
        Signature(name, i, (("x", 0), ("cache", 1)), (("y", 0),))
        for i, name in enumerate(("prefill", "decode"))
    ]
    return Model(graphs, signatures=signatures)


def data(batch: int, scale: float, count: int = 12) -> dict[str, Array]:
    """Arrays by the names of the signature."""
    return {"x": normal(count, batch, 8, scale=scale, seed=batch),
            "cache": normal(count, batch, 8, scale=3 * scale, seed=5)}  # fmt: skip


@pytest.mark.parametrize("looped", [False, True])
def test_each_signature_is_calibrated_on_its_own_data(looped: bool, tmp_path: Path) -> None:
    """With the data of the first for both, the second is clipped to a twentieth of its range."""
    source = tmp_path / "m.tflite"
    write_tflite(model(looped=looped), source)
    loaded = qf.load(source)
    assert [g.name for g in entries(loaded)] == ["prefill", "decode"]
    given = {"prefill": data(4, 1.0), "decode": data(1, 20.0)}
    report = qf.quantize(source, tmp_path / "int8.tflite", passes="calibrate", data=given)
    written = read_tflite(report.path)
    for graph, scale in zip(entries(written), (1.0, 20.0), strict=True):
        assert {t.dtype for t in (*graph.inputs, *graph.outputs)} == (
            {"int8", "float32"} if looped and scale == 20 else {"int8"}
        )
        quant = graph.inputs[0].quant
        assert quant is not None
        assert float(quant.scale[0]) == pytest.approx(scale * 2 * 3 / 255, rel=0.3)
    assert report.fidelity is not None
    assert report.fidelity.sqnr_db > 30
    assert report.signatures["decode"].sqnr_db > 30
    assert report.saved.lowering.counts["int8"] == 4
    assert [s.key for s in written.signatures] == ["prefill", "decode"]


def test_the_second_signature_runs_in_the_runtime(tmp_path: Path) -> None:
    """By its own name in the file that is written, not as we cut it out."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    given = {"prefill": data(4, 1.0), "decode": data(1, 20.0)}
    source = tmp_path / "m.tflite"
    write_tflite(model(), source)
    saved = qf.quantize(source, tmp_path / "q.tflite", passes="calibrate", data=given, io="float32")
    runner = interpreter.Interpreter(str(saved.path)).get_signature_runner("decode")
    x, cache = (given["decode"][name][0] for name in ("x", "cache"))
    wanted = np.maximum(x @ W.T, 0) + cache
    np.testing.assert_allclose(runner(x=x, cache=cache)["y"], wanted, atol=2.5)


def test_signatures_whose_tensors_have_the_same_names(tmp_path: Path) -> None:
    """Each input is known by the name of its own signature: fails where the last one wins."""
    graphs = []
    for name in ("see", "hear"):
        b = GraphBuilder(name)
        graphs.append(b.finish(b.op("ADD", b.input("x", (1, 4)), b.input("z", (1, 4)), name="y")))
    signatures = [
        Signature("see", 0, (("image", 0), ("mask", 1)), (("y", 0),)),
        Signature("hear", 1, (("sound", 0), ("gain", 1)), (("y", 0),)),
    ]
    given = {
        s.key: {name: normal(8, 1, 4, scale=scale, seed=k) for k, (name, _) in enumerate(s.inputs)}
        for s, scale in zip(signatures, (1.0, 20.0), strict=True)
    }
    both = Model(graphs, signatures=signatures)
    qf.run_passes(both, "calibrate", data=given)
    largest = [
        max(abs(op.attrs["max"]) for op in graph.ops_of("FAKE_QUANT")) for graph in both.graphs
    ]
    assert largest[1] > 10 * largest[0]


def test_a_signature_without_data_is_calibrated_with_a_notice(tmp_path: Path) -> None:
    source = tmp_path / "m.tflite"
    write_tflite(model(), source)
    report = qf.quantize(source, tmp_path / "q.tflite", passes="calibrate", data=data(4, 1.0))
    notes = " ".join(map(str, report.passes["calibrate"].diagnostics))
    assert "signature 'decode': no data: ranges of " in notes
    assert "give --data decode=PATH" in notes
    assert report.fidelity is not None
    assert report.signatures == {}
    assert {t.dtype for t in read_tflite(report.path).graphs[1].inputs} == {"int8"}


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "m.tflite", tmp_path / "out.tflite"
    write_tflite(model(), source)
    for name, arrays in (("prefill", data(4, 1.0)), ("decode", data(1, 20.0))):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    both = [f"--data={name}={tmp_path / name}.npz" for name in ("prefill", "decode")]
    args = [str(source), "-p", "calibrate", "-o", str(out)]
    assert run([*args, *both]) == 0
    assert "signature 'decode': SQNR" in capsys.readouterr().out
    assert run([*args, f"--data={tmp_path / 'prefill'}.npz"]) == 0
    assert "signature 'decode': no data" in capsys.readouterr().err
    assert run([*args, "--data=dekode=x.npz"]) == 2
    assert "no signature 'dekode'; it has prefill, decode" in capsys.readouterr().err
    assert run([*args, *both[:1], *both[:1]]) == 2
    assert "is given twice" in capsys.readouterr().err


def test_ranges_are_saved_and_replayed_for_each_signature(tmp_path: Path) -> None:
    source, ranges = tmp_path / "m.tflite", tmp_path / "r.json"
    write_tflite(model(), source)
    args = [str(source), "-q"]
    for name, arrays in (("prefill", data(4, 1.0)), ("decode", data(1, 20.0))):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        args.append(f"--data={name}={tmp_path / name}.npz")
    outs = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    first = ["-p", "calibrate(bias=false)", "--save-ranges", str(ranges), "-o", str(outs[0])]
    assert run([*args, *first]) == 0
    replay = f"calibrate(bias=false, ranges='{ranges}')"
    assert run([str(source), "-q", "-p", replay, "-o", str(outs[1])]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_data_of_the_wrong_signature_are_refused() -> None:
    with pytest.raises(DataError, match="decode_x"):
        qf.run_passes(model(), "calibrate", data={"decode": data(4, 1.0)})


def test_other_schemes_and_passes(tmp_path: Path) -> None:
    """Passes that fit to data leave other signatures to plain calibration."""
    source = tmp_path / "m.tflite"
    write_tflite(model(), source)
    given = {"prefill": data(4, 1.0, 64), "decode": data(1, 20.0, 64)}
    for scheme, passes in (("int16x8", "calibrate"), ("int8", "@per-channel"), ("uint8", "@fast")):
        report = qf.quantize(source, tmp_path / "q.tflite", passes=passes, data=given,
                             scheme=scheme, samples=48)  # fmt: skip
        assert report.signatures["decode"].sqnr_db > 28, (scheme, passes)
        assert report.saved.lowering.float_ops == []
    saved = qf.save(qf.load(source), tmp_path / "f.tflite", scheme="float16")
    samples = synthetic(input_specs(qf.load(source).graph), 3)
    runs = [collect(Runner(path, threads=1), samples) for path in (source, saved.path)]
    assert compare(*runs).sqnr_db > 50


def test_a_pattern_may_name_an_op_of_any_signature(tmp_path: Path) -> None:
    loaded = model()
    qf.run_passes(loaded, "calibrate", data={"prefill": data(4, 1.0), "decode": data(1, 20.0)})
    saved = qf.save(loaded, tmp_path / "q.tflite", keep_float=("decode_dense",))
    assert [name for name, _, _ in saved.lowering.float_ops] == ["decode_dense"]
    assert serialize(read_tflite(saved.path))
