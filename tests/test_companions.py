"""What goes along with a merge: whatever its donor needed to load, and nothing of its weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from pools import folder_of
from tokenizers import Tokenizer, models
from transformers import AutoProcessor, AutoTokenizer

from recycler.checkpoints import companions as room
from recycler.checkpoints.companions import companions
from recycler.checkpoints.folder import Checkpoint
from recycler.errors import BrokenCheckpoint
from recycler.export import merge_file

TAKEN = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "tekken.json",
    "qwen.tiktoken",
    "vocab.bpe",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/rag.jinja",
    "additional_chat_templates/tool_use.jinja",
    "configuration_mine.py",
    "modeling_mine.py",
    "sub/nested/tool.py",
    "optimizer.py",
    "processing.pt.py",
    "LICENSE",
    "LICENSE.md",
    "NOTICE",
    "USE_POLICY.md",
    "config_sentence_transformers.json",
    "modules.json",
    "1_Pooling/config.json",
    "original/params.json",
    "original/tokenizer.model",
    "mel_filters.npz",
    "speaker_embeddings/v2/en.npy",
    ".gitattributes",
    "assets/plot.png",
    "scheduler_config.json",
    "results.json",
]
LEFT = {
    "weights or pickles": """
        pytorch_model.bin pytorch_model-00001-of-00002.bin consolidated.00.pth model.fp16.safetensors
        tf_model.h5 flax_model.msgpack model-Q4_K_M.gguf rust_model.ot onnx/model.onnx
        onnx/model.onnx_data onnx/model.onnx.data model.safetensors.part1 weights.npz
        original/consolidated.00.pth saved_model.pb big.ckpt MODEL.BIN model.gguf-part2of3
        """,
    "an index of weights": """
        pytorch_model.bin.index.json tf_model.h5.index.json model.safetensors.index.fp16.json
        flax_model.msgpack.index.json consolidated.safetensors.index.json
        """,
    "state of a training": """
        optimizer.pt optimizer.bin scheduler.pt rng_state.pth rng_state_0.pth random_states_0.pkl
        trainer_state.json training_args.bin training_args.json all_results.json train_results.json
        zero_to_fp32.py latest trainer_log.jsonl events.out.tfevents.1.host
        """,
    "speaks of the donor's own weights": """
        README.md README recycler.json recipe.yaml mergekit.yaml mergekit_config.yml front.png
        """,
}
FOLDERS = {
    "checkpoint-500/": "state of a training",
    "global_step500/": "state of a training",
    "runs/": "state of a training",
    ".git/": "a hidden folder",
    ".cache/": "a hidden folder",
    "__pycache__/": "a hidden folder",
    "2_Dense/": "a model of its own",
}


def put(root: Path, *names: str, content: str = "{}") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.fixture
def donor(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "donor", {"w": torch.ones(2)})


def sorted_out(folder: Path) -> room.Companions:
    return companions(Checkpoint.open(folder))


def test_everything_goes_along_but_weights_training_state_and_cards(donor: Path) -> None:
    put(donor, *TAKEN, *(name for names in LEFT.values() for name in names.split()))
    put(donor, "2_Dense/config.json", "2_Dense/model.safetensors")
    put(donor, *(f"{name}anything.json" for name in FOLDERS))
    found = sorted_out(donor)
    assert sorted(found.taken) == sorted(TAKEN)
    told = {name: why for why, names in LEFT.items() for name in names.split()}
    assert set(found.left) == {*told, *FOLDERS}
    assert {name: found.left[name] for name in (*told, *FOLDERS)} == {**told, **FOLDERS}


def test_shards_and_their_index_are_merged_and_not_told_as_left(tmp_path: Path) -> None:
    donor = tmp_path / "donor"
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(donor, max_shard_size="20KB")
    assert len(list(donor.glob("model-*.safetensors"))) > 1
    found = sorted_out(donor)
    assert (list(found.taken), found.left) == (["generation_config.json"], {})


def test_what_is_too_large_or_no_file_is_told(
    donor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (donor / "odd").touch()
    os.truncate(donor / "odd", room.MAX_BYTES + 1)
    os.mkfifo(donor / "pipe.json")
    (donor / "dead.json").symlink_to("nowhere")
    assert sorted_out(donor).left == {
        "odd": "larger than 256 MB",
        "pipe.json": "not a regular file",
        "dead.json": "a link that leads nowhere",
    }


def test_links_are_resolved_and_none_leads_out_but_to_what_a_loader_asks_for(
    donor: Path, tmp_path: Path
) -> None:
    put(tmp_path, "secret", "shared/tokenizer.json", "shared/x.jinja", content="outside")
    put(donor, "inside.txt", content="inside")
    (donor / "notes.txt").symlink_to(tmp_path / "secret")
    (donor / "copy.txt").symlink_to("inside.txt")
    (donor / "tokenizer.json").symlink_to(tmp_path / "shared/tokenizer.json")
    (donor / "additional_chat_templates").symlink_to(tmp_path / "shared")
    (donor / "loop").symlink_to(donor)
    found = sorted_out(donor)
    assert {name: file.read_text() for name, file in found.taken.items()} == {
        "copy.txt": "inside",
        "inside.txt": "inside",
        "tokenizer.json": "outside",
    }
    assert not any(file.is_symlink() for file in found.taken.values())
    assert found.left == {
        "notes.txt": f"a link to {tmp_path}/secret, outside the checkpoint",
        "additional_chat_templates/": "a link to a folder",
        "loop/": "a link to a folder",
    }


def as_cache(folder: Path, root: Path) -> Path:
    """The folder as huggingface_hub lays it out: links from a snapshot to blobs."""
    entry = root / "models--org--name"
    snapshot = entry / "snapshots" / "abc123"
    (entry / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(f for f in folder.rglob("*") if f.is_file())):
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        file.rename(entry / "blobs" / f"{number:040x}")
        link.symlink_to(os.path.relpath(entry / "blobs" / f"{number:040x}", link.parent))
    return snapshot


def test_a_snapshot_of_the_cache_gives_all_of_its_files(donor: Path, tmp_path: Path) -> None:
    put(donor, *TAKEN)
    assert sorted(sorted_out(as_cache(donor, tmp_path)).taken) == sorted(TAKEN)


def test_a_folder_that_vanished_is_told(donor: Path) -> None:
    opened = Checkpoint.open(donor)
    donor.rename(donor.with_name("moved"))
    with pytest.raises(BrokenCheckpoint, match=r"donor can't be listed: No such file"):
        companions(opened)


# --- an export loads wherever its donor loaded ---

WORDS = ["<pad>", "<unk>", "<image>", *map(chr, range(65, 91))]


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>"
    )


def merged(tmp_path: Path, folders: list[Path]) -> tuple[Path, dict]:
    recipe = {
        "checkpoints": [
            {"path": str(f), "weight": 0.5, "name": f"m{i}"} for i, f in enumerate(folders)
        ]
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = merge_file(tmp_path / "recipe.yaml", tmp_path / "out")
    return tmp_path / "out", done


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # transformers' own
def test_the_processor_of_a_vision_language_model_loads_from_a_cached_snapshot(
    tmp_path: Path,
) -> None:
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                vocab_size=64,
            ).to_dict(),
            vision_config=transformers.CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=16,
                patch_size=8,
                projection_dim=32,
            ).to_dict(),
            image_token_index=2,
        )
        folder = tmp_path / f"saved-{seed}"
        transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
        images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
        transformers.LlavaProcessor(
            image_processor=images,
            tokenizer=tokenizer(),
            patch_size=8,
            chat_template={"default": "{{ messages }}", "rag": "{{ documents }}"},
        ).save_pretrained(folder)
        folders.append(as_cache(folder, tmp_path / f"cache-{seed}"))
    out, done = merged(tmp_path, folders)
    before, after = AutoProcessor.from_pretrained(folders[0]), AutoProcessor.from_pretrained(out)
    assert after.to_dict() == before.to_dict()
    assert after.chat_template == before.chat_template
    assert set(after.chat_template) == {"default", "rag"}
    assert not any(file.is_symlink() for file in out.rglob("*"))
    assert done["left_behind"] == []
    names = {file["name"] for file in done["files"]}
    assert names == {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()}
    assert "additional_chat_templates/rag.jinja" in names


CONFIGURATION = """
from transformers import LlamaConfig
class MineConfig(LlamaConfig):
    model_type = "mine"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_mine import MineConfig
class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""
LOAD = """
import sys
from transformers import AutoModelForCausalLM
print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)).__name__)
"""


def test_remote_code_goes_along_and_what_stays_is_said(tmp_path: Path) -> None:
    folders = []
    for seed in range(2):
        folder = tmp_path / f"m{seed}"
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
        )
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        put(folder, "configuration_mine.py", content=CONFIGURATION)
        put(folder, "modeling_mine.py", content=MODELING)
        put(folder, "README.md", "optimizer.pt", "LICENSE")
        table = json.loads((folder / "config.json").read_text())
        code = {
            "AutoConfig": "configuration_mine.MineConfig",
            "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
        }
        table |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": code}
        (folder / "config.json").write_text(json.dumps(table))
        folders.append(folder)
    recipe = {"checkpoints": [{"path": str(f), "weight": 0.5} for f in folders]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = subprocess.run(
        [sys.executable, "-m", "recycler", "merge", "recipe.yaml", "out"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "left behind: README.md (speaks of the donor's own weights)" in run.stderr
    assert "left behind: optimizer.pt (state of a training)" in run.stderr
    assert (tmp_path / "out" / "LICENSE").is_file()
    assert not (tmp_path / "out" / "README.md").exists()
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "out"],
        capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )  # fmt: skip
    assert loaded.stdout.split() == ["MineForCausalLM"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").vocab_size == len(WORDS)
