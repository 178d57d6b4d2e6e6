"""A model that does not fit into a memory limit is mapped within it, its weights on disk.

    python benchmarks/offload.py [--quick] [--json FILE]

Writes a random Llama in bfloat16, layer by layer, and reads it in float32. Two child processes, both under the same
limit: one loads the model whole, one through accelerate with most layers on disk; each then collects the states of two
sets of prompts and trains the map of every layer. The limit is on memory of the process's own (anonymous: pages of
mapped files can be dropped at any time, and do not count). The kernel enforces it as RLIMIT_DATA; as that counts the
checkpoint's mapped files too, which safetensors maps as private, it is set to the limit plus their size. Beside it the
largest RssAnon is measured, every 20 ms, and must stay within the limit itself; VmHWM, with all pages, is told. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MIB = 2**20
CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}w1"
GRID = (3, 3)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model, of the prompts, and of the memory that the mapping process may take."""

    layers: int
    width: int
    hidden: int
    vocabulary: int
    prompts: int
    tokens: int
    limit_mib: int
    weights_mib: int


FULL = Shape(16, 2048, 8192, 4096, prompts=20, tokens=12, limit_mib=1280, weights_mib=384)
QUICK = Shape(6, 1024, 4096, 4096, prompts=12, tokens=6, limit_mib=768, weights_mib=96)


@dataclass(frozen=True)
class Mapping:
    """What the mapping process saw. Bytes, seconds; ``error`` where it did not come to its end.

    data_bytes: what counts towards the limit before anything is loaded (Python and its libraries).
    """

    error: str | None
    data_bytes: int = 0
    peak_bytes: int = 0
    peak_anonymous_bytes: int = 0
    parameters_in_memory: int = 0
    parameters_on_disk: int = 0
    load_seconds: float = 0.0
    states_seconds: float = 0.0
    maps_seconds: float = 0.0
    layers_mapped: int = 0
    quantization_error: float = 0.0


def write_model(shape: Shape, folder: Path) -> int:
    """A checkpoint with one file for each layer, never held whole. Returns its number of parameters."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 64,
        num_key_value_heads=shape.width // 256,
        max_position_embeddings=512,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        tie_word_embeddings=False,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    parts = [f"model.layers.{index}." for index in range(shape.layers)] + [""]
    places: dict[str, str] = {}
    for number, part in enumerate(parts):
        names = [name for name in shapes if name.startswith(part) and name not in places]
        file = f"model-{number + 1:05d}-of-{len(parts):05d}.safetensors"
        tensors = {name: random_weight(shapes[name], generator) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    total = sum(size.numel() for size in shapes.values())
    index = {"metadata": {"total_size": 2 * total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config.save_pretrained(folder)
    write_tokenizer(shape, folder)
    return total


def random_weight(size: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Norms near one; matrices that keep the scale of what they read."""
    noise = torch.randn(size, generator=generator)
    return (1 + 0.1 * noise if len(size) == 1 else noise * size[-1] ** -0.5).to(torch.bfloat16)


def write_tokenizer(shape: Shape, folder: Path) -> None:
    """Words w0, w1, ... for as many tokens as the model has."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(shape.vocabulary)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="w0", pad_token="w0", chat_template=CHAT, padding_side="left"
    )
    wrapped.save_pretrained(folder)


def map_model(shape: Shape, folder: Path, work: Path, whole: bool) -> Mapping:
    """Load, collect the states of two sets of prompts, train a map of every layer. Runs in the limited process."""
    from sombrero.architectures import find_architecture, resolve_writers
    from sombrero.config import ModelConfig
    from sombrero.errors import ModelError
    from sombrero.models import load_model
    from sombrero.prompts import render
    from sombrero.records import Prompt
    from sombrero.som import fit_layers
    from sombrero.states import collect_states

    limits = {} if whole else {"max_memory": {"cpu": f"{shape.weights_mib}MiB"}, "offload_folder": work}
    settings = ModelConfig.model_validate({"source": str(folder), "device": "cpu", "dtype": "float32", **limits})
    data = 1024 * status("VmData")
    with peak_of_anonymous_memory() as peak:
        try:
            began = time.perf_counter()
            handle = load_model(settings)
            loaded = time.perf_counter()
        except (ModelError, RuntimeError, MemoryError) as error:
            return Mapping(f"{type(error).__name__}: {str(error).splitlines()[0]}"[-200:], data_bytes=data)
        architecture = find_architecture(handle.model)
        writers = resolve_writers(handle.model, architecture)
        prompts = []
        for offset in (2, 1000):
            texts = [
                " ".join(f"w{(offset + 7 * i + 13 * j * (1 + i % 5)) % 900 + offset}" for j in range(shape.tokens))
                for i in range(shape.prompts)
            ]
            rendering = render(handle.tokenizer, [Prompt(f"{offset}-{i}", text) for i, text in enumerate(texts)])
            prompts += rendering.prompts
        hidden = collect_states(handle, architecture, writers, prompts).hidden
        collected = time.perf_counter()
        maps = fit_layers(hidden[: shape.prompts], n_rows=GRID[0], n_columns=GRID[1])
        mapped = time.perf_counter()
    on_disk = sum(p.numel() for p in handle.model.parameters() if p.is_meta)
    return Mapping(
        error=None,
        data_bytes=data,
        peak_bytes=1024 * status("VmHWM"),
        peak_anonymous_bytes=1024 * peak[0],
        parameters_in_memory=sum(p.numel() for p in handle.model.parameters()) - on_disk,
        parameters_on_disk=on_disk,
        load_seconds=loaded - began,
        states_seconds=collected - loaded,
        maps_seconds=mapped - collected,
        layers_mapped=len(maps.quantization_error),
        quantization_error=float(maps.quantization_error.mean()),
    )


def status(name: str) -> int:
    """A figure of this process in /proc, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@contextmanager
def peak_of_anonymous_memory() -> Iterator[list[int]]:
    """The largest RssAnon, KiB, while the context is open: looked at every 20 ms, as the kernel keeps no mark of it."""
    peak, done = [status("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], status("RssAnon"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def run_child(shape: Shape, name: str, folder: Path, work: Path, whole: bool) -> Mapping:
    """Map in a process of its own, under the limit."""
    out = work / f"{name}.json"
    command = [sys.executable, __file__, "--child", str(folder), str(work), str(out), *(["--whole"] if whole else [])]
    command += ["--quick"] if shape == QUICK else []
    # each thread's heap reserves address space of its own, which would count before it is used
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    limit = shape.limit_mib * MIB + sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    if out.is_file():
        return Mapping(**json.loads(out.read_text(encoding="utf-8")))
    said = done.stderr.strip().splitlines() or ["nothing"]
    return Mapping(f"ended with {done.returncode}: {said[-1]}"[:200])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model: a smoke run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--work", type=Path, help="folder for the model; default: a temporary one")
    parser.add_argument("--child", type=Path, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = QUICK if options.quick else FULL
    if options.child:
        folder, work, out = options.child
        out.write_text(json.dumps(asdict(map_model(shape, folder, work, options.whole))), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        parameters = write_model(shape, folder)
        whole = run_child(shape, "whole", folder, Path(temporary), whole=True)
        offloaded = run_child(shape, "offloaded", folder, Path(temporary), whole=False)
    print(f"{shape.layers} layers of width {shape.width}: {parameters / 1e6:.0f} M parameters,")
    print(f"{4 * parameters / MIB:.0f} MiB in float32; limit of the process {shape.limit_mib} MiB of its own, of")
    print(f"which {offloaded.data_bytes / MIB:.0f} MiB count before anything is loaded\n")
    print("| load | outcome | peak anonymous MiB | peak with file pages MiB | load s | states s | maps s |")
    print("|---|---|---|---|---|---|---|")
    for name, found in (("whole", whole), ("offloaded", offloaded)):
        outcome = (
            f"{found.layers_mapped} states mapped" if found.error is None else "out of memory or failed, see below"
        )
        print(
            f"| {name} | {outcome} | {found.peak_anonymous_bytes / MIB:.0f} | {found.peak_bytes / MIB:.0f} "
            f"| {found.load_seconds:.1f} | {found.states_seconds:.1f} | {found.maps_seconds:.1f} |"
        )
    print(f"\nwhole: {whole.error or 'it fits: raise the shape or lower the limit'}")
    if offloaded.error is None:
        share = offloaded.parameters_on_disk / parameters
        print(
            f"offloaded: {share:.0%} of the parameters stayed on disk; "
            f"{2 * shape.prompts} prompts of {shape.tokens} words"
        )
    if options.json:
        figures = {"shape": asdict(shape), "parameters": parameters, "weight_bytes_float32": 4 * parameters}
        figures |= {"whole": asdict(whole), "offloaded": asdict(offloaded)}
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if offloaded.error is not None or offloaded.peak_anonymous_bytes > shape.limit_mib * MIB:
        sys.exit(f"the model could not be mapped within the limit: {offloaded.error or 'it took more'}")


if __name__ == "__main__":
    main()
