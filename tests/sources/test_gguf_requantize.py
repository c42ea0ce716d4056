"""A GGUF file quantized again: the bytes that llama.cpp's own quantizer writes, whatever the source is stored in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import gguf_files
import llama_oracle
from gguf_files import LLAMA
from modelport.exporters.job import Job
from modelport.exporters.runtimes import gguf as runtime
from modelport.sources.gguf import values
from modelport.sources.gguf.header import encode, read_header, type_bytes
from modelport.targets.errors import ConversionFailed, SourceUnreadable, Unsupported

pytestmark = pytest.mark.slow

KEYS: Mapping[str, Any] = {
    **LLAMA,
    "general.file_type": 0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.vocab_size": 48,
}
SCHEMES = ("f16", "q8_0", "q6_k", "q4_k_m", "q4_0", "q2_k")


def fill(path: Path, named: gguf_files.Tensors, seed: int = 0, **spoiled: float) -> Path:
    """A float32 file of random weights; `spoiled` names a role whose last value becomes another."""
    import numpy as np

    random = np.random.default_rng(seed)
    infos = gguf_files.infos(named)
    with path.open("wb") as stream:
        stream.write(encode(gguf_files.entries(KEYS), infos))
        for name, (_, shape) in named.items():
            drawn = 0.05 * random.standard_normal(shape, dtype=np.float32)
            drawn.flat[-1] = spoiled.get(name.split(".")[-2], drawn.flat[-1])
            data = drawn.tobytes()
            stream.write(data + bytes(-len(data) % 32))
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model stored in several types, by llama.cpp's quantizer."""
    folder = tmp_path_factory.mktemp("stored")
    files = {"f32": fill(folder / "f32.gguf", gguf_files.tensors("float32"))}
    for kind in ("f16", "bf16", "q8_0", "q4_k_m"):
        files[kind] = llama_oracle.quantize(files["f32"], folder / f"{kind}.gguf", kind)
    return files


def job(source: Path, scheme: str, folder: Path, **options: Any) -> Job:
    """A job in folders of its own."""
    for part in ("work", "out"):
        (folder / part).mkdir(parents=True)
    return Job(
        (), "gguf", str(source), "local-llm", "gguf", scheme, str(folder / "out"), str(folder / "work"),
        options={"threads": 2, **options},
    )  # fmt: skip


def convert(source: Path, scheme: str, folder: Path, **options: Any) -> Path:
    """The exporter's two steps, without the workers around them."""
    made = job(source, scheme, folder, **options)
    runtime.header(made, lambda *_: None)
    runtime.export(made, lambda *_: None)
    return folder / "out" / "model.gguf"


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_every_scheme_has_the_bytes_of_llama_cpps_quantizer(
    tmp_path: Path, stored: dict[str, Path], kind: str
) -> None:
    theirs = {scheme: tmp_path / f"{scheme}.gguf" for scheme in SCHEMES}
    llama_oracle.run_quantizations(
        llama_oracle.Quantization(stored[kind], out, scheme, requantize=True)
        for scheme, out in theirs.items()
    )
    for scheme, out in theirs.items():
        ours = convert(stored[kind], scheme, tmp_path / scheme)
        assert ours.read_bytes() == out.read_bytes(), f"{kind} -> {scheme}"


def test_low_bit_weights_are_quantized_again_only_when_asked(tmp_path: Path, stored: dict[str, Path]) -> None:
    with pytest.raises(Unsupported, match="add --requantize"):
        convert(stored["q4_k_m"], "q8_0", tmp_path / "refused")
    assert list((tmp_path / "refused" / "out").iterdir()) == []
    ours = convert(stored["q4_k_m"], "q8_0", tmp_path / "asked", requantize=True)
    theirs = llama_oracle.quantize(stored["q4_k_m"], tmp_path / "theirs.gguf", "q8_0", requantize=True)
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_size_is_known_beforehand(tmp_path: Path, stored: dict[str, Path]) -> None:
    asked = job(stored["f16"], "q4_k_m", tmp_path / "sizes", schemes=list(SCHEMES))
    foretold = runtime.sizes(asked, lambda *_: None).data["file_bytes"]
    for scheme in SCHEMES:
        assert convert(stored["f16"], scheme, tmp_path / scheme).stat().st_size == foretold[scheme]


def test_a_model_in_parts_gives_the_bytes_of_the_whole(tmp_path: Path, stored: dict[str, Path]) -> None:
    whole = stored["f32"].read_bytes()
    named = list(gguf_files.tensors("float32").items())
    infos = {info.name: info for info in gguf_files.infos(dict(named))}
    begin = len(encode(gguf_files.entries(KEYS), infos.values()))
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(3):
        own = dict(named[number::3])
        split = {
            "split.no": (values.UINT16, number),
            "split.count": (values.UINT16, 3),
            "split.tensors.count": (values.INT32, len(named)),
        }
        keys = {**KEYS, **split} if number == 0 else split
        content = encode(gguf_files.entries(keys), gguf_files.infos(own))
        for name, (_, shape) in own.items():
            at, size = begin + infos[name].offset, 4
            for axis in shape:
                size *= axis
            content += whole[at : at + size] + bytes(-size % 32)
        (folder / f"m-{number + 1:05}-of-00003.gguf").write_bytes(content)
    first = folder / "m-00001-of-00003.gguf"
    ours = convert(first, "q4_k_m", tmp_path / "ours")
    assert ours.read_bytes() == convert(stored["f32"], "q4_k_m", tmp_path / "again").read_bytes()
    theirs = llama_oracle.quantize(first, tmp_path / "theirs.gguf", "q4_k_m")
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_found_by_name(tmp_path: Path, value: float) -> None:
    source = fill(tmp_path / "m.gguf", gguf_files.tensors("float32"), attn_v=value)
    for scheme in ("q4_k_m", "f16", "f32"):
        with pytest.raises(SourceUnreadable, match=r"m\.gguf: blk\.0\.attn_v\.weight: .*NaN or infinite"):
            convert(source, scheme, tmp_path / scheme)
        assert list((tmp_path / scheme / "out").iterdir()) == []


def test_weights_beyond_float16_are_found_by_name(tmp_path: Path) -> None:
    source = fill(tmp_path / "m.gguf", gguf_files.tensors("float32"), ffn_up=1e6)
    with pytest.raises(ConversionFailed, match=r"m\.gguf: blk\.0\.ffn_up\.weight: .*beyond float16"):
        convert(source, "f16", tmp_path / "f16")
    assert convert(source, "bf16", tmp_path / "bf16").exists()


def aligned(path: Path, stored: Path, alignment: int) -> Path:
    """The float32 model again, its tensors at multiples of `alignment`, which its header says."""
    named, keys = gguf_files.tensors("float32"), {**KEYS, "general.alignment": alignment}
    whole, narrow = stored.read_bytes(), gguf_files.infos(named)
    begin = len(encode(gguf_files.entries(KEYS), narrow))
    content = encode(gguf_files.entries(keys), gguf_files.infos(named, alignment), alignment)
    for info in narrow:
        size = type_bytes(info.type, info.shape)
        content += whole[begin + info.offset : begin + info.offset + size] + bytes(-size % alignment)
    path.write_bytes(content)
    return path


def test_another_alignment_of_the_source_does_not_reach_the_file(
    tmp_path: Path, stored: dict[str, Path]
) -> None:
    source = aligned(tmp_path / "m.gguf", stored["f32"], 256)
    ours = convert(source, "q4_k_m", tmp_path / "ours")
    assert ours.read_bytes() == convert(stored["f32"], "q4_k_m", tmp_path / "again").read_bytes()


def test_the_usual_alignment_stays_where_it_is_written_out(tmp_path: Path, stored: dict[str, Path]) -> None:
    source = aligned(tmp_path / "m.gguf", stored["f32"], 32)
    theirs = llama_oracle.quantize(source, tmp_path / "theirs.gguf", "q4_k_m")
    assert convert(source, "q4_k_m", tmp_path / "ours").read_bytes() == theirs.read_bytes()


def test_two_steps_are_refused_where_llama_cpp_would_spoil_the_file(
    tmp_path: Path, stored: dict[str, Path]
) -> None:
    source = aligned(tmp_path / "m.gguf", stored["f32"], 64)
    with pytest.raises(SourceUnreadable, match=r"alignment|offset"):
        read_header(llama_oracle.quantize(source, tmp_path / "theirs.gguf", "q4_k_m"))
    with pytest.raises(Unsupported, match="Leave out --two-step"):
        convert(source, "q4_k_m", tmp_path / "ours", two_step=True)
