"""Chat templates for converted models: the turns their base model knows, in a form our processor can read.

Stock templates expect a message's content as one string and do not say which tokens the assistant wrote. Ours take
lists of parts, put a placeholder where a picture stands, and mark the answers. Which turns a model knows is told by
the tokens it has.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turns:
    """How turns are written.

    Attributes:
        needs: tokens that a tokenizer must have for this way of writing.
        before, after: around the role's name, before the text.
        end: closes a turn; the assistant writes it too.
        between: behind every turn, written by nobody.
        begin: whether the sequence starts with the tokenizer's first token.
        assistant, system: what these roles are called.
    """

    needs: tuple[str, ...]
    before: str
    after: str
    end: str
    between: str = ""
    begin: bool = False
    assistant: str = "assistant"
    system: str = "system"


KNOWN = {
    "chatml": Turns(("<|im_start|>", "<|im_end|>"), "<|im_start|>", "\n", "<|im_end|>", "\n"),
    "llama3": Turns(
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", begin=True,
    ),
    "gemma": Turns(
        ("<start_of_turn>", "<end_of_turn>"),
        "<start_of_turn>", "\n", "<end_of_turn>", "\n", begin=True, assistant="model", system="user",
    ),
}  # fmt: skip


def turns_of(tokenizer) -> tuple[str, Turns]:
    """The name and form of the turns a tokenizer has tokens for; ``plain`` words where it has none.

    Raises:
        ValueError: a tokenizer without turns and without an end token.
    """
    vocab = tokenizer.get_vocab()
    for name, turns in KNOWN.items():
        if all(token in vocab for token in turns.needs):
            return name, turns
    if tokenizer.eos_token is None:
        raise ValueError("the tokenizer has neither turns nor an end token: nothing could end an answer")
    return "plain", Turns((), "", ":\n", tokenizer.eos_token, "\n", begin=True)


def template(turns: Turns, begin: str | None, image: str, video: str) -> str:
    """A Jinja chat template.

    Args:
        begin: the tokenizer's first token, if it has one.
        image, video: placeholders.
    """

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"

    roles = f"{{'assistant': {quoted(turns.assistant)}, 'system': {quoted(turns.system)}}}"
    parts = (
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}"
        f"{{% elif part['type'] == 'video' %}}{{{{ {quoted(video)} }}}}"
        f"{{% else %}}{{{{ {quoted(image)} }}}}{{% endif %}}"
        "{% endfor %}{% endif %}"
    )
    end, between = f"{{{{ {quoted(turns.end)} }}}}", f"{{{{ {quoted(turns.between)} }}}}" if turns.between else ""
    head = f"{{{{ {quoted(turns.before)} + roles.get(m['role'], m['role']) + {quoted(turns.after)} }}}}"
    opening = quoted(turns.before + turns.assistant + turns.after)
    return (
        f"{{% set roles = {roles} %}}"
        + (f"{{{{ {quoted(begin)} }}}}" if turns.begin and begin else "")
        + "{% for m in messages %}" + head
        + "{% if m['role'] == 'assistant' %}{% generation %}" + parts + end + "{% endgeneration %}"
        + "{% else %}" + parts + end + "{% endif %}" + between
        + "{% endfor %}{% if add_generation_prompt %}{{ " + opening + " }}{% endif %}"
    )  # fmt: skip
