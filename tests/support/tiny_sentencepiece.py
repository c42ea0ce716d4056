"""SentencePiece tokenizers, trained in a moment, in the files that Llama 2, Mistral, Phi-3, Gemma and T5 ship."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tiny_corpus import training_lines
from tiny_tokenizers import write_json

sentencepiece: Any = pytest.importorskip("sentencepiece")
tokenizers: Any = pytest.importorskip("tokenizers")

SPACE = "▁"
GEMMA_RUNS = tuple("\n" * n for n in range(1, 6)) + tuple(SPACE * n for n in range(2, 9)) + ("\t", "\t\t")
INST_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] +"
    " ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
PHI3_CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content']"
    " | trim + '<end_of_turn>\n' }}{% endfor %}"
)


@dataclass(frozen=True)
class Style:
    """How one family's SentencePiece model is trained, and what its tokenizer.json adds to it."""

    tokenizer_class: str
    kind: str = "bpe"  # or unigram
    gemma: bool = False  # no leading space, ids 0-3 pad eos bos unk, runs of spaces and newlines as pieces
    added: tuple[
        tuple[str, bool, bool], ...
    ] = ()  # (text, special, eats the space to its right), after the pieces
    eos: str = "</s>"
    pad: str | None = None
    add_bos: bool = True
    add_eos: bool = False
    chat_template: str | None = None
    context: int = 4096


STYLES = {
    "llama": Style("LlamaTokenizer"),
    "mistral": Style("LlamaTokenizer", chat_template=INST_CHAT, context=32768),
    "phi3": Style(
        "LlamaTokenizer",
        added=(
            ("<|endoftext|>", True, False), ("<|assistant|>", True, True), ("<|placeholder1|>", True, True),
            ("<|system|>", True, True), ("<|end|>", True, True), ("<|user|>", True, True),
        ),
        eos="<|endoftext|>", pad="<|endoftext|>", add_bos=False, chat_template=PHI3_CHAT,
    ),
    "gemma": Style("GemmaTokenizer", gemma=True, eos="<eos>", pad="<pad>", chat_template=GEMMA_CHAT, context=8192),
    "unigram": Style("PreTrainedTokenizerFast", kind="unigram", pad="<pad>", add_bos=False, add_eos=True),
}  # fmt: skip


@functools.cache
def trained(name: str, vocabulary: int) -> bytes:
    """The serialized tokenizer.model of one style."""
    style = STYLES[name]
    written = io.BytesIO()
    options: dict[str, Any] = {
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
    }
    if style.kind == "unigram":
        options = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    elif style.gemma:
        symbols = [
            "<mask>",
            "[@BOS@]",
            "<unused0>",
            "<unused1>",
            "<start_of_turn>",
            "<end_of_turn>",
            *GEMMA_RUNS,
        ]
        options |= {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "user_defined_symbols": symbols}
        options |= {
            "add_dummy_prefix": False,
            "pad_piece": "<pad>",
            "eos_piece": "<eos>",
            "bos_piece": "<bos>",
        }
    if style.kind == "bpe":
        options |= {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_lines()), model_writer=written, model_type=style.kind, num_threads=1,
        vocab_size=vocabulary, character_coverage=0.995, minloglevel=2, **options,
    )  # fmt: skip
    return written.getvalue()


def write_sentencepiece(name: str, folder: Path, vocabulary: int = 768, *, json_too: bool = True) -> int:
    """Write tokenizer.model, its tokenizer.json and configs as the checkpoints do; returns how many ids there are."""
    style, model = STYLES[name], trained(name, vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    added = _added(style, pieces)
    write_json(folder / "tokenizer_config.json", _config(style, added))
    write_json(folder / "special_tokens_map.json", {f"{k}_token": v for k, v in _named(style).items() if v})
    if style.added:
        write_json(
            folder / "added_tokens.json", {t["content"]: t["id"] for t in added if t["id"] >= len(pieces)}
        )
    if json_too:
        (folder / "tokenizer.json").write_text(_tokenizer_json(style, pieces, model, added), encoding="utf-8")
    return len(pieces) + len(style.added)


def _named(style: Style) -> dict[str, str | None]:
    bos = None if style.kind == "unigram" else ("<bos>" if style.gemma else "<s>")
    return {"bos": bos, "eos": style.eos, "pad": style.pad, "unk": "<unk>"}


def _added(style: Style, pieces: Any) -> list[dict[str, Any]]:
    """The added tokens: the model's own specials by their ids, then what the family adds behind the pieces."""

    def token(number: int, text: str, special: bool, right: bool = False) -> dict[str, Any]:
        flags = {
            "single_word": False,
            "lstrip": False,
            "rstrip": right,
            "normalized": False,
            "special": special,
        }
        return {"id": number, "content": text, **flags}

    own = [n for n in range(len(pieces)) if pieces.is_control(n) or pieces.is_unknown(n)]
    tokens = [token(n, pieces.id_to_piece(n), True) for n in own]
    if style is STYLES["phi3"]:  # its own files mark </s> so, and llama.cpp knows it by the model's name
        tokens[2] |= {"rstrip": True, "special": False}
    if style.gemma:
        first = len(own)
        while pieces.id_to_piece(first) not in GEMMA_RUNS:
            text = pieces.id_to_piece(first)
            tokens.append(token(first, text, text.endswith("_of_turn>")))
            first += 1
        tokens += [token(pieces.piece_to_id(run), run, False) for run in GEMMA_RUNS]
    tokens += [
        token(len(pieces) + n, text, special, right) for n, (text, special, right) in enumerate(style.added)
    ]
    return sorted(tokens, key=lambda each: each["id"])


def _config(style: Style, added: list[dict[str, Any]]) -> dict[str, Any]:
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    config: dict[str, Any] = {
        "add_bos_token": style.add_bos,
        "add_eos_token": style.add_eos,
        "added_tokens_decoder": decoder,
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": style.context,
        "sp_model_kwargs": {},
        "tokenizer_class": style.tokenizer_class,
        "use_default_system_prompt": False,
    }
    config |= {f"{what}_token": value for what, value in _named(style).items()}
    return config | ({"chat_template": style.chat_template} if style.chat_template else {})


def merges_of(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The merges that give SentencePiece's BPE order: a pair comes as early as the piece that it makes scores high."""
    pairs = [
        (scores[piece], piece[:cut], piece[cut:])
        for piece in scores
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    order = {piece: number for number, piece in enumerate(scores)}
    pairs.sort(key=lambda pair: (-pair[0], order[pair[1]], order[pair[2]]))
    return [(left, right) for _, left, right in pairs]


def _tokenizer_json(style: Style, pieces: Any, model: bytes, added: list[dict[str, Any]]) -> str:
    t = tokenizers
    scored = [(pieces.id_to_piece(n), float(pieces.get_score(n))) for n in range(len(pieces))]
    if style.kind == "unigram":
        made = t.Tokenizer(t.models.Unigram(scored, pieces.unk_id(), False))
        made.normalizer = t.normalizers.Sequence(
            [
                t.normalizers.Precompiled(_charsmap(model)),
                t.normalizers.Strip(left=False, right=True),
                t.normalizers.Replace(t.Regex(" {2,}"), SPACE),
            ]
        )
        made.pre_tokenizer = t.pre_tokenizers.Metaspace(prepend_scheme="always")
        made.decoder = t.decoders.Metaspace(prepend_scheme="always")
    else:
        plain = {text: score for n, (text, score) in enumerate(scored) if not _is_marked(pieces, n)}
        numbers = {text: n for n, (text, _) in enumerate(scored)}
        made = t.Tokenizer(
            t.models.BPE(numbers, merges_of(plain), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        prefix = [] if style.gemma else [t.normalizers.Prepend(SPACE)]
        made.normalizer = t.normalizers.Sequence([*prefix, t.normalizers.Replace(" ", SPACE)])
        if style.gemma:
            made.pre_tokenizer = t.pre_tokenizers.Split(" ", "merged_with_previous")
        strip = [] if style.gemma else [t.decoders.Strip(" ", 1, 0)]
        steps = [t.decoders.Replace(SPACE, " "), t.decoders.ByteFallback(), t.decoders.Fuse(), *strip]
        made.decoder = t.decoders.Sequence(steps)
    for token in added:
        flags = {k: token[k] for k in ("single_word", "lstrip", "rstrip", "normalized")}
        text = t.AddedToken(token["content"], special=token["special"], **flags)
        (made.add_special_tokens if token["special"] else made.add_tokens)([text])
    made.post_processor = _template(style, made)
    return json.dumps(json.loads(made.to_str()), ensure_ascii=False, indent=2)


def _is_marked(pieces: Any, number: int) -> bool:
    return bool(pieces.is_control(number) or pieces.is_unknown(number) or pieces.is_byte(number))


def _template(style: Style, made: Any) -> Any:
    named = _named(style)
    bos = f"{named['bos']}:0 " if style.add_bos else ""
    eos = f" {style.eos}:0" if style.add_eos else ""
    used = [text for text, on in ((named["bos"], bos), (style.eos, eos)) if on]
    return tokenizers.processors.TemplateProcessing(
        single=f"{bos}$A:0{eos}",
        pair=f"{bos}$A:0{eos} {bos.replace(':0', ':1')}$B:1{eos.replace(':0', ':1')}".strip(),
        special_tokens=[(text, made.token_to_id(text)) for text in used],
    )


def _charsmap(model: bytes) -> bytes:
    """The normalizer's table out of a serialized model."""
    from sentencepiece import sentencepiece_model_pb2

    return bytes(sentencepiece_model_pb2.ModelProto.FromString(model).normalizer_spec.precompiled_charsmap)
