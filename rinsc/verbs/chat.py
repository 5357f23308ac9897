"""Prompts of a chat: the template of a tokenizer, rendered in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.errors import DataError, setting
from rinsc.extras import require
from rinsc.storage.files import parse_json

if TYPE_CHECKING:
    from rinsc.data.tokenizer import BytePairTokenizer

SECONDS = 60  # of a process that renders, most of them to import transformers
RENDER_SECONDS = 10  # of the processor, for the template alone
RENDER_BYTES = 1 << 29  # beside what is held before it


def render_chats(tokenizer: BytePairTokenizer, messages: Sequence[str]) -> list[str]:
    """Each message as the text of a chat that an assistant is to go on with.

    Raises DataError where the tokenizer has no template, and where it cannot be rendered.
    """
    template = tokenizer.declared.template
    if template is None:
        folder = f"{setting('tokenizer')} FOLDER that has chat_template.jinja"
        hint = f"leave {setting('chat')} out, or train with a {folder}"
        raise DataError("no-chat-template", "the tokenizer has no chat template", hint=hint)
    require("transformers")
    request = {
        "template": template,
        "messages": list(messages),
        "tokens": tokenizer.named_tokens,
        "seconds": RENDER_SECONDS,
    }
    command = [
        sys.executable,
        "-P",
        "-c",
        f"from {__name__} import render_process; render_process()",
    ]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode("ascii"),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        answer = parse_json(done.stdout)
    except subprocess.TimeoutExpired:
        raise _failed("it takes too long") from None
    except ValueError:
        raise _failed("it takes too much time or memory") from None
    if "error" in answer:
        raise _failed(str(answer["error"]))
    return [str(text) for text in answer["texts"]]


def render_process() -> None:
    """What the process of `render_chats` does: JSON from standard input to standard output."""
    from transformers.utils.chat_template_utils import render_jinja_template

    request = parse_json(sys.stdin.read())
    _limit(request["seconds"])
    try:
        chats = [[{"role": "user", "content": message}] for message in request["messages"]]
        rendered = render_jinja_template(
            conversations=chats,
            chat_template=request["template"],
            add_generation_prompt=True,
            **request["tokens"],
        )
        answer: dict[str, object] = {"texts": rendered[0]}
    except MemoryError:
        answer = {"error": "it takes too much memory"}
    except Exception as error:  # a template may go wrong in every way
        answer = {"error": (str(error).strip() or type(error).__name__).partition("\n")[0][:200]}
    json.dump(answer, sys.stdout)


def _limit(render_seconds: int) -> None:
    """Where the system has such limits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        seconds = int(used) + 1 + render_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        size = pages * resource.getpagesize() + RENDER_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _failed(reason: str) -> DataError:
    hint = f"mend chat_template.jinja beside the tokenizer, or leave {setting('chat')} out"
    message = f"the chat template cannot be used: {reason}"
    return DataError("bad-chat-template", message, hint=hint)
