"""Which language model, from where, pooled how."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from factorlm.assets import Mirror, fetch
from factorlm.backbones.encoder import Pooling, TextEncoder
from factorlm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]
Quantization = Literal["8bit", "4bit"]


@dataclass(frozen=True)
class Backbone:
    """A model folder as transformers writes it, or a single GGUF file, which is dequantized and converted once.

    Args:
        name: for messages and reports.
        mirrors: where the files are; see `factorlm.assets`.
        dtype: of weights and layers, ``float32`` or ``bfloat16``; vectors, adapters, scores and losses are float32.
        attn_implementation: of transformers: ``sdpa``, ``eager`` or one that its documentation names.
        quantization: of linear maps, by bitsandbytes: ``8bit`` (T. Dettmers et al., LLM.int8(), NeurIPS 2022), ``4bit``
            (NF4; T. Dettmers et al., QLoRA, NeurIPS 2023) or None.
        pooling: ``last`` token, ``mean`` over tokens or the first (``cls``) token.
        prefix: before each text, as some sentence encoders were trained with.
        max_seq_len: tokens after which a text is cut.
    """

    name: str
    mirrors: Sequence[Mirror]
    dtype: Dtype
    attn_implementation: str
    quantization: Quantization | None
    pooling: Pooling
    prefix: str
    max_seq_len: int

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"backbone.dtype={self.dtype}: it must be float32 or bfloat16")
        if self.quantization not in (None, "8bit", "4bit"):
            raise UserError(f"backbone.quantization={self.quantization}: it must be 8bit, 4bit or null")

    def identity(self) -> str:
        """Hash of what determines the vectors: weights, tokenizer, arithmetic, pooling and length."""
        arithmetic = [self.dtype, self.attn_implementation, self.quantization]
        content = [
            [mirror.identity for mirror in self.mirrors],
            *arithmetic,
            self.pooling,
            self.prefix,
            self.max_seq_len,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def load(self, cache_dir: Path) -> TextEncoder:
        """Fetch the model and load it on the CPU; of a sequence-to-sequence model the encoder.

        Raises:
            UserError: no mirror delivered it, it has no such attention implementation, or bitsandbytes is missing.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        folder = self.fetch(cache_dir)
        chosen = {"dtype": self.dtype, "attn_implementation": self.attn_implementation, **self._quantized()}
        try:
            model = AutoModel.from_pretrained(folder, **chosen, local_files_only=True, trust_remote_code=False)
        except (ImportError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"backbone.attn_implementation={self.attn_implementation}: {reason}") from error
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        if self.quantization == "4bit":
            for module in model.modules():
                module.support_avx512bf16_for_cpu = False  # which packs weights in a way that has no gradient
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return TextEncoder(model, tokenizer, self.pooling, self.max_seq_len, self.prefix)

    def load_causal(self, cache_dir: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Fetch the model and load it with its language-model head, in float32 on the CPU.

        Raises:
            UserError: no mirror delivered it, it has no such head, dtype is bfloat16, or it is quantized.
        """
        if self.dtype != "float32":
            raise UserError(f"prompt: backbone.dtype={self.dtype}: a prompt scorer is float32; set float32")
        if self.quantization is not None:
            raise UserError(f"prompt: backbone.quantization={self.quantization}: a prompt scorer is float32; set null")
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        folder = self.fetch(cache_dir)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or []):
            raise UserError(f"prompt: backbone {self.name} has no language-model head: set backbone=smollm2_135m")
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=self.dtype,
            attn_implementation=self.attn_implementation,
            local_files_only=True,
            trust_remote_code=False,
        )
        return model, AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    def _quantized(self) -> dict[str, Any]:
        """Arguments of `from_pretrained`."""
        if self.quantization is None:
            return {}
        import torch
        from transformers import BitsAndBytesConfig

        if find_spec("bitsandbytes") is None:
            raise UserError(
                f"backbone.quantization={self.quantization} needs bitsandbytes: pip install 'factorlm[quantization]'"
            )
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells every call what it casts
        kind = {"load_in_8bit": True} if self.quantization == "8bit" else {"load_in_4bit": True}
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": getattr(torch, self.dtype)}
        return {"quantization_config": BitsAndBytesConfig(**kind, **nf4), "device_map": "cpu"}

    def fetch(self, cache_dir: Path) -> Path:
        """The folder of the model, downloaded and, if quantized, converted on the first call."""
        fetched = fetch(self.name, self.mirrors, cache_dir)
        quantized = sorted(fetched.glob("*.gguf"))
        if not quantized:
            return fetched
        source = hashlib.sha256("".join(mirror.identity for mirror in self.mirrors).encode()).hexdigest()[:16]
        converted = cache_dir / "converted" / f"{quantized[0].stem}-{source}"
        if not converted.exists():
            converted.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(converted.with_suffix(".lock")):
                if not converted.exists():
                    _convert_gguf(quantized[0], converted)
        return converted


def hub_backbone(
    repo: str,
    revision: str,
    dtype: Dtype,
    attn_implementation: str,
    quantization: Quantization | None,
    pooling: Pooling,
    prefix: str,
    max_seq_len: int,
) -> Backbone:
    """A model of the Hugging Face hub; its commit fixes the content of all files, so no checksums are listed.

    Args:
        repo: ``owner/name``.
        revision: full commit hash.
        dtype: of weights and layers, as for `Backbone`.
        attn_implementation: of transformers.
        quantization: of linear maps, as for `Backbone`.
        pooling: ``last`` token, ``mean`` over tokens or the first (``cls``) token.
        prefix: before each text, as some sentence encoders were trained with.
        max_seq_len: tokens after which a text is cut.

    Raises:
        UserError: the revision is no commit hash.
    """
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise UserError(f"backbone.revision={revision}: a branch moves; give the full commit hash of 40 digits")
    mirrors = [Mirror(f"hf://{repo}@{revision}")]
    return Backbone(repo, mirrors, dtype, attn_implementation, quantization, pooling, prefix, max_seq_len)


def _convert_gguf(source: Path, target: Path) -> None:
    """Dequantize a GGUF file into a safetensors folder, so that it loads in a second instead of half a minute."""
    from rich.console import Console
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with Console(stderr=True).status(f"converting {source.name} to safetensors, once"):
        quantized = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype="float32",
            quantization_config=GgufConfig(dequantize=True),
        )
        config = type(quantized.config).from_dict(
            {key: value for key, value in quantized.config.to_dict().items() if key != "quantization_config"}
        )
        model = AutoModelForCausalLM.from_config(config, dtype="float32")
        model.load_state_dict(quantized.state_dict())
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(partial)
    partial.replace(target)
