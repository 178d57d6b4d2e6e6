"""What a bake costs: peak memory and speed beside ``cp -r`` plus ``sync`` of the same folder; and what kills do to it.

    python benchmarks/bake.py [--quick] [--json FILE] [--work DIR] [--kills N] [--rounds N] [--slice-layers N]

Checkpoints with the shapes of Llama-3.1-8B (16 GB bfloat16) and gpt-oss-20b (13.8 GB, MXFP4 experts), random content,
written here; of gpt-oss the attention outputs are edited, then its experts too, in each way to store them (in bfloat16
they take 38 GB in place of 10, and cp is still that of the source). cp and bake take turns, from a cold cache, each in
a process of its own; a bake's time is that of the whole process, with the start of Python and the import of torch. Then
the same edit with transformers: load, edit, save_pretrained, on as many layers as fit in memory. Last, SIGKILL at
random moments. Two copies of a checkpoint are on the disk at once: 33 GB, 55 GB with experts in bfloat16. Everything is
deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bake_checkpoints import GptOss, Llama, Shape, make_edit, write_checkpoint
from bake_kills import Kills, kill_bakes

MIB = 2**20
MEMORY_TARGET = 1536 * MIB
SPEED_TARGET = 0.6
POLL_SECONDS = 0.02
SHAPES: dict[str, Shape] = {
    "llama-8b": Llama(),
    "gpt-oss-20b": GptOss(),
    "gpt-oss-20b-experts": GptOss(experts_stored="nearest"),
    "gpt-oss-20b-experts-carry": GptOss(experts_stored="carry"),
    "gpt-oss-20b-experts-beside": GptOss(experts_stored="beside"),
}
QUICK: dict[str, Shape] = {
    "llama-8b": Llama(layers=2, vocabulary=4096, shard_bytes=400_000_000),
}
QUICK |= {
    name: replace(shape, layers=1, vocabulary=4096, shard_bytes=300_000_000)
    for name, shape in SHAPES.items()
    if isinstance(shape, GptOss)
}


@dataclass(frozen=True)
class Cost:
    """One process: wall and processor seconds, peak resident memory, and peak of what is not file pages, in bytes."""

    seconds: float
    processor_seconds: float
    resident: int
    anonymous: int


@dataclass(frozen=True)
class Figures:
    """One checkpoint: its size, cp's seconds and the bakes' costs round by round, and the ratio of speeds."""

    n_bytes: int
    cp_seconds: tuple[float, ...]
    bakes: tuple[Cost, ...]
    speed: float
    resident: int


def measure(name: str, shape: Shape, work: Path, rounds: int) -> Figures:
    """cp and bake in turn, ``rounds`` times each."""
    source, out = work / "source", work / "out"
    n_bytes = write_checkpoint(shape, source)
    copies, bakes = [], []
    for _ in range(rounds):
        _forget(source)
        began = time.perf_counter()
        subprocess.run(["cp", "-r", source, out], check=True)
        subprocess.run(["sync"], check=True)
        copies.append(time.perf_counter() - began)
        _remove(out)
        _forget(source)
        bakes.append(_run("bake", name, shape, source, out))
        _remove(out)
    _remove(source)
    ratios = [copy / cost.seconds for copy, cost in zip(copies, bakes, strict=True)]
    return Figures(n_bytes, tuple(copies), tuple(bakes), statistics.median(ratios), max(c.resident for c in bakes))


def compare(shape: Shape, work: Path) -> dict[str, Cost]:
    """The same edit of the same checkpoint by a bake, and by transformers in memory."""
    source, out = work / "source", work / "out"
    write_checkpoint(shape, source)
    costs = {}
    for how in ("bake", "transformers"):
        _forget(source)
        costs[how] = _run(how, "llama-8b", shape, source, out)
        _remove(out)
    _remove(source)
    return costs


def child(how: str, shape: Shape, source: Path, out: Path) -> None:
    """What a measured process does."""
    writers = shape.writers()
    if how == "bake":
        from sombrero.checkpoints import bake

        stored = shape.experts_stored if isinstance(shape, GptOss) else None
        edit = make_edit(writers)
        # random directions in random weights: what rounding leaves of them is not what is measured here
        bake(source, edit, writers, out, provenance={"base": source.name}, packing=stored, accept_error=True)
    else:
        import torch
        from transformers import AutoModelForCausalLM

        from sombrero.edits.kernels import edit_weight

        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
        edit = make_edit(writers)
        with torch.no_grad():
            for writer in writers:
                weight = model.get_submodule(writer.module_path).weight
                weight.copy_(edit_weight(weight, edit[writer.name], writer.layout))
        model.save_pretrained(out)
        os.sync()
    print(_status(os.getpid())["VmHWM"])


def _run(how: str, name: str, shape: Shape, source: Path, out: Path) -> Cost:
    command = [sys.executable, __file__, "--child", how, name, json.dumps(asdict(shape)), source, out]
    before = os.times()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    anonymous = 0
    while process.poll() is None:
        anonymous = max(anonymous, _status(process.pid).get("RssAnon", 0))
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - began
    after = os.times()
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{how} of {name} failed with exit code {process.returncode}")
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return Cost(seconds, used, int(output.split()[-1]), anonymous)


def _status(process: int) -> dict[str, int]:
    """The figures of /proc/PID/status in bytes; none when the process is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def _forget(folder: Path) -> None:
    """A cold cache: dropped by the system where we may ask for it, else file by file."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for path in folder.iterdir():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)
    os.sync()


def _fitting_layers(shape: Llama) -> int:
    """Layers of a model that takes half of the memory that is free: loading and saving need more than the weights."""
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    ends = sum(tensor.n_bytes for tensor in replace(shape, layers=0).tensors())
    layer = sum(tensor.n_bytes for tensor in replace(shape, layers=1).tensors()) - ends
    return max(1, min(shape.layers, (available // 2 - ends) // layer))


def _show(name: str, figures: Figures) -> None:
    print(f"{name}: {figures.n_bytes / 1e9:.2f} GB")
    for copy, cost in zip(figures.cp_seconds, figures.bakes, strict=True):
        print(
            f"  cp + sync {copy:.1f} s; bake {cost.seconds:.1f} s ({cost.processor_seconds:.1f} s of processor), peak "
            f"{cost.resident / MIB:.0f} MiB resident, {cost.anonymous / MIB:.0f} MiB anonymous"
        )
    fast, small = figures.speed >= SPEED_TARGET, figures.resident <= MEMORY_TARGET
    print(f"  speed {figures.speed:.0%} of cp (target {SPEED_TARGET:.0%}: {'met' if fast else 'MISSED'})")
    print(f"  memory {figures.resident / MIB:.0f} MiB (target {MEMORY_TARGET // MIB}: {'met' if small else 'MISSED'})")


def _show_kills(kills: Kills) -> None:
    print(
        f"kills: {kills.killed} of running bakes ({1e3 * kills.bake_seconds:.0f} ms long; {kills.started} started); "
        f"after {kills.resumed} there were finished files to go on from, after {kills.published} the result; "
        f"{kills.loadable_halves} loadable halves, {kills.other_results} results other than the uninterrupted one"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small checkpoints and few kills: a smoke run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--work", type=Path, default=Path("bake-bench"), help="a folder of its own for the checkpoints")
    parser.add_argument("--kills", type=int, help="how many bakes are killed (default 200)")
    parser.add_argument("--rounds", type=int, help="how often cp and bake take turns (default 2)")
    parser.add_argument("--slice-layers", type=int, help="layers for transformers (default: what fits)")
    parser.add_argument("--only", choices=[*SHAPES, "transformers", "kills"], help="this part alone")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        how, name, numbers, source, out = options.child
        child(how, type(SHAPES[name])(**json.loads(numbers)), Path(source), Path(out))
        return
    if options.work.exists():
        raise SystemExit(f"{options.work} exists; name a folder that does not, it is deleted in the end")
    found: dict[str, object] = {}
    wanted = [options.only] if options.only else [*SHAPES, "transformers", "kills"]
    options.work.mkdir(parents=True)
    try:
        for name in [name for name in wanted if name in SHAPES]:
            shape = (QUICK if options.quick else SHAPES)[name]
            figures = measure(name, shape, options.work, options.rounds or (1 if options.quick else 2))
            found[name] = asdict(figures)
            _show(name, figures)
        if "transformers" in wanted:
            layers = options.slice_layers or (1 if options.quick else _fitting_layers(Llama()))
            costs = compare(replace((QUICK if options.quick else SHAPES)["llama-8b"], layers=layers), options.work)
            found["transformers"] = {"layers": layers} | {how: asdict(cost) for how, cost in costs.items()}
            for how, cost in costs.items():
                print(f"{layers} layers, {how}: {cost.seconds:.1f} s, peak {cost.resident / MIB:.0f} MiB resident")
        if "kills" in wanted:
            kills = kill_bakes(options.work, options.kills or (10 if options.quick else 200))
            found["kills"] = asdict(kills)
            _show_kills(kills)
    finally:
        shutil.rmtree(options.work)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
