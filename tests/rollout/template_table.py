"""Chat templates that people use, with what a renderer should make of each of them.

The templates are TRL's copies of those of the models; the others are written here in their form. Tokenizers are small
ones that have the template's control tokens; `test_render_real` has those of the models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from families import (
    CHATML_MARKS,
    GEMMA_MARKS,
    LLAMA_2,
    LLAMA_3_MARKS,
    MISTRAL,
    MISTRAL_MARKS,
    PHI_3_MARKS,
    SPACES,
    THINKING,
    byte_family,
    metaspace,
    sentencepiece,
    trl_template,
)

CHATML_TAIL, GEMMA_TAIL = "<|im_start|>assistant\n", "<start_of_turn>model\n"
LLAMA_3_TAIL, R1_TAIL = "<|start_header_id|>assistant<|end_header_id|>\n\n", "<｜Assistant｜>"
EMPTY, OPEN = "<think>\n\n</think>\n\n", "<think>\n"
OFF, ON = {"enable_thinking": False}, {"enable_thinking": True}
DAY = {"date_string": "26 Jul 2024", "strftime_now": datetime(2024, 7, 26).strftime}
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + "
    "m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL_V3 = MISTRAL.replace("[INST]{%", "[INST] {%").replace(
    "{{ m['content'] + eos", "{{ ' ' + m['content']|trim + eos"
)
QWEN3_THINKING_2507 = re.sub(
    r"\{%- if enable_thinking is defined.*?endif %\}", "{{- '<think>\\\\n' }}", trl_template("qwen3"), flags=re.DOTALL
)
DEEPSEEK_V31 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜></think>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}"
)
REWRITES_USERS = SMOLLM2.replace("m['content'] +", "(m['content'] if loop.last else m['content'] | lower) +")


@dataclass(frozen=True)
class Row:
    """A template with arguments, and what is expected of its renderer."""

    template: str
    """Name of a template of TRL, or its text."""
    end: str
    """The control token that ends a turn of the assistant."""
    tail: str = ""
    """How prompt and bridges end: the template's generation prompt."""
    arguments: dict = field(default_factory=dict)
    system: bool = True
    """Whether rules stay a system message."""
    same_header: bool = True
    """Whether the template writes into its history what invites the next action."""
    opened: bool = False
    """Whether the generation prompt opens a thought."""
    close: str = "\n</think>\n\n"
    """How a thought is closed."""
    kind: str = "bytes"
    """`bytes`, or pieces as Llama-2's, Phi-3's or Gemma's tokenizers have them."""
    eos: str = "<end>"
    """The tokenizer's own end of sequence, which ends actions too."""
    thoughts: bool = True
    """Whether the tokenizer has tokens for thoughts."""
    refused: str = ""
    """If set, the reason why the template is refused."""

    @property
    def text(self):
        return self.template if "{" in self.template else trl_template(self.template)

    @property
    def given(self):
        """The arguments for a renderer, which sets the clock itself."""
        return {name: value for name, value in self.arguments.items() if name != "strftime_now"}

    def make(self):
        words = THINKING if self.thoughts else []
        if self.kind == "phi":
            return sentencepiece(self.text, metaspace("first"), marks=PHI_3_MARKS, words=words, rstrip=True)
        if self.kind == "gemma":
            return sentencepiece(self.text, normalizer=SPACES, marks=GEMMA_MARKS, words=["\n", "\n\n", "▁▁", *words])
        if self.kind == "mistral":
            return sentencepiece(self.text, metaspace("first"), marks=MISTRAL_MARKS, words=words)
        marks = {"chatml": CHATML_MARKS, "llama3": LLAMA_3_MARKS}.get(self.kind)
        if marks is None:
            found = re.findall(r"<[|｜][^|｜<>\s]+[|｜]>|<(?:start|end)_of_turn>|<\|turn>|<turn\|>", self.text)
            marks = sorted({"<bos>", self.eos, self.end, *found})
        return byte_family(self.text, marks, words, bos="<bos>" if "<bos>" in marks else None, eos=self.eos)


def chatml(template, tail="", **given):
    return Row(template, "<|im_end|>", CHATML_TAIL + tail, eos="<|im_end|>", **given)


def qwen(template, off, on, default, **given):
    """Rows of a template whose thinking can be switched."""
    tails = {EMPTY: False, OPEN: True, "": False}
    rows = {"": (default, {}), ", thinking off": (off, OFF), ", thinking on": (on, ON)}
    return {
        f"{template}{name}": chatml(template, tail, arguments=kwargs, opened=tails[tail], same_header=False, **given)
        for name, (tail, kwargs) in rows.items()
    }


def r1(template, tail=OPEN, opened=True, **given):
    return Row(template, "<｜end▁of▁sentence｜>", R1_TAIL + tail, opened=opened, same_header=False, **given)


TABLE = {
    "SmolLM2": chatml(SMOLLM2, thoughts=False),
    "qwen2_5": chatml("qwen2_5", thoughts=False),
    "qwen2_5_training": chatml("qwen2_5_training", thoughts=False),
    **qwen("qwen3", off=EMPTY, on="", default=""),
    **qwen("qwen3_training", off=EMPTY, on="", default=""),
    "qwen3_instruct_2507": chatml("qwen3_instruct_2507"),
    "Qwen3-Thinking-2507": chatml(QWEN3_THINKING_2507, OPEN, opened=True, same_header=False),
    "qwen3_vl": chatml("qwen3_vl"),
    **qwen("qwen3_5_think", off=EMPTY, on=OPEN, default=OPEN),
    **qwen("qwen3_5_nothink", off=EMPTY, on=OPEN, default=EMPTY),
    **qwen("qwen3_5_think_training", off=EMPTY, on=OPEN, default=OPEN),
    **qwen("qwen3_6", off=EMPTY, on=OPEN, default=OPEN),
    **qwen("qwen3_6_training", off=EMPTY, on=OPEN, default=OPEN),
    **qwen("qwen3_8", off=EMPTY, on=OPEN, default=OPEN),
    **qwen("qwen3_8_training", off=EMPTY, on=OPEN, default=OPEN),
    "deepseek_r1_distill": r1("deepseek_r1_distill"),
    "deepseek_r1_distill_training": r1("deepseek_r1_distill_training"),
    "deepseekv3": r1("deepseekv3"),
    "DeepSeek-V3.1": r1(DEEPSEEK_V31, "</think>", opened=False),
    "DeepSeek-V3.1, thinking": r1(DEEPSEEK_V31, "<think>", arguments={"thinking": True}),
    "llama3": Row("llama3", "<|eot_id|>", LLAMA_3_TAIL, thoughts=False),
    "llama3_training": Row("llama3_training", "<|eot_id|>", LLAMA_3_TAIL, thoughts=False),
    "llama3_1": Row("llama3_1", "<|eot_id|>", LLAMA_3_TAIL, thoughts=False),
    "llama3_2": Row("llama3_2", "<|eot_id|>", LLAMA_3_TAIL, arguments=DAY, thoughts=False),
    "gemma": Row("gemma", "<end_of_turn>", GEMMA_TAIL, system=False, kind="gemma", eos="</s>", thoughts=False),
    "gemma3": Row("gemma3", "<end_of_turn>", GEMMA_TAIL, kind="gemma", eos="</s>", thoughts=False),
    "gemma3_training": Row("gemma3_training", "<end_of_turn>", GEMMA_TAIL, kind="gemma", eos="</s>", thoughts=False),
    "gemma4": Row("gemma4", "<turn|>", "<|turn>model\n", thoughts=False),
    "gemma4, thinking": Row("gemma4", "<turn|>", "<|turn>model\n", arguments=ON, thoughts=False),
    "phi3": Row("phi3", "<|end|>", "<|assistant|>", kind="phi", eos="</s>", thoughts=False),
    "phi3_5": Row("phi3_5", "<|end|>", "<|assistant|>", kind="phi", eos="</s>", thoughts=False),
    "Llama-2": Row(LLAMA_2, "</s>", "[/INST]", kind="mistral", eos="</s>", thoughts=False),
    "Mistral, rules in the last message": Row(
        MISTRAL, "</s>", "[/INST]", system=False, kind="mistral", eos="</s>", thoughts=False
    ),
    "Mistral v0.3": Row(MISTRAL_V3, "</s>", "[/INST]", system=False, kind="mistral", eos="</s>", thoughts=False),
    "cohere": Row("cohere", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", thoughts=False),
    "cohere2": Row("cohere2", "<|END_RESPONSE|>", "<|START_RESPONSE|>", thoughts=False),
    "glm4moe": Row("glm4moe", "<|user|>", "<|assistant|>", same_header=False, close="</think>\n"),
    "gptoss": Row("gptoss", "<|end|>", "<|start|>assistant", arguments=DAY, same_header=False, thoughts=False),
    "lfm2": chatml("lfm2", thoughts=False),
    "lfm2_2_5": chatml("lfm2_2_5"),
    "nemotron_3_nano": chatml("nemotron_3_nano", OPEN, opened=True, same_header=False),
    "nemotron_3_nano, thinking off": chatml("nemotron_3_nano", "<think></think>", arguments=OFF, same_header=False),
    "idefics3": Row("idefics3", "<end_of_utterance>", refused=r"rewrites earlier turns \(what the assistant said"),
    "smolvlm": Row("smolvlm", "<end_of_utterance>", refused=r"rewrites earlier turns \(what the assistant said"),
    "llava_next": Row("llava_next", "</s>", refused="fails: UndefinedError: 'str object' has no attribute 'text'"),
    "users rewritten": chatml(
        REWRITES_USERS, refused=r"rewrites earlier turns .* \(chat_template: trl, or the path of a Jinja file\)"
    ),
}
