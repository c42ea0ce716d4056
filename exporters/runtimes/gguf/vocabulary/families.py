"""Which vocabulary each architecture writes, and the entries before and after it: the converter's own order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .....calibration.language_tokenizer.files import Files
from .....calibration.language_tokenizer.sentencepiece_model import MODEL, processor
from .....targets.errors import SourceUnreadable
from . import bpe, pieces, special, unigram
from .entries import Vocabulary, write

if TYPE_CHECKING:
    from gguf import GGUFWriter

LLAMA = (
    "LlamaForCausalLM",
    "LLaMAForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "SmolLM3ForCausalLM",
    "ArceeForCausalLM",
    "IQuestCoderForCausalLM",
    "LlamaModel",
)
QWEN = ("Qwen2ForCausalLM", "Qwen2Model", "Qwen3ForCausalLM", "Qwen3Model", "KORMoForCausalLM")
CODE_GEMMA = ("GemmaForCausalLM",)
GEMMA = (*CODE_GEMMA, "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
PHI3 = ("Phi3ForCausalLM", "PhiMoEForCausalLM")

CODE_LLAMA, GRANITE = 32016, 49152
"""Vocabulary sizes by which the converter knows CodeLlama and the small Granite models."""
CODE_LLAMA_IDS = {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}
CODE_GEMMA_IDS = {"prefix": 67, "suffix": 69, "middle": 68, "fsep": 70, "eot": 107}


@dataclass
class Written:
    """What was written, and what else can be: `mended` where the converter's own form may give other ids."""

    vocabulary: Vocabulary
    mended: Callable[[], Vocabulary] | None = None
    """The vocabulary of a tokenizer.json that was made of SentencePiece, with the scores of its merges."""
    usual: bool = True
    """Whether SentencePiece puts a space before a text, as llama.cpp does where no entry says otherwise."""


def write_family(
    files: Files, writer: GGUFWriter, pre: Callable[[], str], decode: Callable[[int], str]
) -> Written:
    """Add the tokenizer's entries as the converter of this architecture does.

    `pre` gives the pre-tokenizer's name for BPE, `decode` the text of one id by the model's own tokenizer.
    Raises SourceUnreadable for damaged files and Unsupported where llama.cpp has no form for the tokenizer.
    """
    files.require_tokenizer()
    out = _Out(files, writer, pre, decode)
    name = files.architecture
    if name in LLAMA:
        return _llama(out)
    if name in GEMMA:
        return _gemma(out)
    if name in PHI3:
        return _phi3(out)
    if name in QWEN and files.has(MODEL):
        return out.sentencepiece()
    if files.algorithm == "Unigram":
        return out.unigram(None)
    return out.byte_level()


@dataclass
class _Out:
    files: Files
    writer: GGUFWriter
    pre: Callable[[], str]
    decode: Callable[[int], str]

    def byte_level(self) -> Written:
        made = bpe.vocabulary(self.files, self.decode)
        found = special.find(self.files)
        special.beyond(found, len(made.tokens), self.files)
        return self._finish(made, found, self.pre())

    def sentencepiece(self, take: Callable[[Files, Any], Vocabulary] = pieces.vocabulary) -> Written:
        model = processor(self.files)
        try:
            proto = unigram.read_proto(self.files.read(MODEL))
        except ValueError as error:
            raise SourceUnreadable(
                f"is not a SentencePiece model: {error}", where=self.files.place(MODEL)
            ) from error
        if proto.model_type == unigram.UNIGRAM:
            return self.unigram(model)
        made = take(self.files, model)
        written = self._finish(made, special.find(self.files, len(made.tokens)))
        written.usual = proto.add_dummy_prefix
        return written

    def unigram(self, model: Any | None) -> Written:
        made = pieces.unigram_vocabulary(self.files, model)
        return self._finish(made, special.find(self.files, len(made.tokens)))

    def from_json(self, *, mended: bool = False) -> Written:
        made = pieces.json_vocabulary(self.files, mended=mended)
        written = self._finish(made, special.find(self.files, len(made.tokens)))
        if not mended:
            written.mended = lambda: pieces.json_vocabulary(self.files, mended=True)
        return written

    def _finish(self, made: Vocabulary, found: special.Special, pre: str = "default") -> Written:
        write(made, pre, self.writer)
        special.write(found, self.writer)
        return Written(made)

    def more(self, ids: dict[str, int]) -> None:
        """A family's own special tokens, where the files do not name others; all else is written already."""
        special.write(special.Special(special.find(self.files, None, tuple(ids), ids).ids), self.writer)

    def set_add_bos(self, value: bool) -> None:
        """The entry at its place where there is one already, as the gguf package would, without its warning."""
        key = "tokenizer.ggml.add_bos_token"
        if key in self.writer.kv_data[0]:
            self.writer.kv_data[0][key].value = value
        else:
            self.writer.add_add_bos_token(value)


def _llama(out: _Out) -> Written:
    files = out.files
    if (prefix := files.settings.get("add_prefix_space")) is not None:
        out.writer.add_add_space_prefix(bool(prefix))
    if files.has(MODEL):
        written = out.sentencepiece()
    elif files.algorithm == "Unigram":
        written = out.unigram(None)
    elif files.part("model").get("byte_fallback") and files.part("decoder").get("type") == "Sequence":
        written = out.from_json()
    else:
        written = out.byte_level()
    size = files.model.get("vocab_size", 32000)
    if size == CODE_LLAMA:
        out.more(CODE_LLAMA_IDS)
    if size == GRANITE:
        out.set_add_bos(False)
    return written


def _gemma(out: _Out) -> Written:
    files = out.files
    if not files.has(MODEL):
        if files.algorithm == "Unigram":
            return out.unigram(None)
        if files.part("model").get("byte_fallback"):
            # No bytes' letters in it: the form that the converter would take ("gpt2") cannot read it.
            written = out.from_json(mended=True)
            out.writer.add_add_space_prefix(False)
            return written
        return out.byte_level()
    written = out.sentencepiece()
    if files.architecture in CODE_GEMMA:
        out.more(CODE_GEMMA_IDS)
    out.writer.add_add_space_prefix(False)
    written.usual = True
    return written


def _phi3(out: _Out) -> Written:
    if str(out.files.settings.get("tokenizer_class", "")) == "GPT2Tokenizer" or not out.files.has(MODEL):
        # Without tokenizer.model the converter gives up; the tokenizer is in tokenizer.json all the same.
        if out.files.part("model").get("byte_fallback"):
            return out.from_json(mended=True)
        return out.byte_level()
    return out.sentencepiece(pieces.phi3_vocabulary)
