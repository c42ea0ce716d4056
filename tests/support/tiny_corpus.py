"""Text that ships with Python, and a few lines in other scripts: what tiny tokenizers and models are trained on."""

from __future__ import annotations

import codecs
import functools
import pydoc_data.topics
import sysconfig
from pathlib import Path

# Sources with much prose in them; all exist in every Python that the project supports.
SOURCES = (
    "argparse",
    "textwrap",
    "inspect",
    "difflib",
    "random",
    "doctest",
    "statistics",
    "decimal",
    "turtle",
)

OTHER_SCRIPTS = (
    "Быстрая коричневая лиса прыгает через ленивую собаку. Съешь же ещё этих мягких французских булок.",
    "Ο γρήγορος αλεπού πηδάει πάνω από το τεμπέλικο σκυλί, και ύστερα κοιμάται.",
    "快速的棕色狐狸跳过了懒狗。我想在apple工作1314151天～ 你好,世界!",
    "速い茶色の狐はのろまな犬を飛び越えた。こんにちは、世界。ｶﾀｶﾅも。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다. 안녕하세요 세계!",
    "الثعلب البني السريع يقفز فوق الكلب الكسول. مرحبا بالعالم",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। नमस्ते दुनिया",
    "השועל החום המהיר קופץ מעל הכלב העצלן. שלום עולם",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Größe, Ärger, naïve café, İstanbul.",
    "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ 🦙🦙 👩‍👩‍👧‍👦 🇩🇪 ❤️ e\u0301 vs \u00e9",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }\t// trailing tab\n\tif (x) return -1;",
    "SELECT name, COUNT(*) FROM t WHERE id >= 3333333 GROUP BY name HAVING COUNT(*) > 3.14e-10;",
    "I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL",
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3   ------======= '''''' ``` \"\"\"",
)  # fmt: skip


@functools.cache
def prose() -> str:
    """Python's own reference texts: about 460 000 characters of English with code in it, the same on each run."""
    zen = Path(sysconfig.get_path("stdlib"), "this.py").read_text(encoding="utf-8").split('"""')[1]
    topics = pydoc_data.topics.topics
    return "\n\n".join([codecs.decode(zen, "rot13"), *(topics[name] for name in sorted(topics))])


@functools.cache
def code() -> str:
    """Sources of the standard library, docstrings and all: about 700 000 characters."""
    folder = Path(sysconfig.get_path("stdlib"))
    texts = [folder / f"{name}.py" for name in SOURCES]
    return "\n\n".join(path.read_text(encoding="utf-8") for path in texts if path.is_file())


@functools.cache
def training_lines(characters: int = 120_000) -> tuple[str, ...]:
    """Lines for training a tokenizer: half prose, half code, and every other script a few times over."""
    half = characters // 2
    english = prose()[:half].split("\n") + code()[:half].split("\n")
    return tuple(line for line in english if line.strip()) + OTHER_SCRIPTS * 3


def probes() -> list[str]:
    """Lines on which two tokenizers must agree: scripts, code, whitespace, digits, contractions, emoji."""
    spaces = [
        "",
        " ",
        "  ",
        "   a",
        "a   ",
        "\n",
        "\n\n\n",
        " \n \n\n \t \t\t x\r\n y",
        "\t\tif x:\n\t\t\treturn",
    ]
    marks = [
        "Hello world",
        " Hello",
        "Hello,world!!??..",
        "x=1;y=[2,3]",
        "snake_case camelCase",
        "\u00a0nbsp",
    ]
    body = [line for line in code()[5000:13000].split("\n") if line.strip()][:80]
    return [*spaces, *marks, *OTHER_SCRIPTS, *prose()[:6000].split("\n"), *body]
