"""The opening of a response, defined so that it can be read while the response is still being written.

Everything here keeps prefixes: the normalised start of a text is the start of the normalised text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_SENTENCES = 3
MAX_CHARACTERS = 240
MIN_SENTENCE_WORDS = 2

_QUOTES = str.maketrans(dict.fromkeys("’‘ʼ‛`´＇", "'") | dict.fromkeys("“”„‟«»＂", '"'))
_MARKDOWN = re.compile(r"[*_#>~|\\]")
_BREAKS = re.compile(r"\s*\n\s*")
_SPACES = re.compile(r"[^\S\n]+")
_CLOSING = "\"')\\]」』）”"
# ideographic stops need no space after them, but the next character, as more stops or a quotation mark may follow
_END = re.compile(rf"[.!?…।؟]+[{_CLOSING}]*(?=\s)|[。！？]+[{_CLOSING}]*(?=[^。！？{_CLOSING}])|\n")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{2}|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+(?:'[^\W\d_]+)*")


@dataclass(frozen=True)
class Opening:
    """The first sentences of a text, normalised. ``closed``: more text cannot add to them.

    While the opening is not closed, its last sentence may still be growing, unless ``last_complete``.
    """

    sentences: tuple[str, ...]
    closed: bool
    last_complete: bool

    @property
    def complete(self) -> tuple[str, ...]:
        """The sentences that more text cannot change."""
        return self.sentences if self.closed or self.last_complete else self.sentences[:-1]


def normalize(text: str) -> str:
    """Casefold, plain quotes, no markdown, one space or one line break between words."""
    plain = _MARKDOWN.sub("", text.casefold().translate(_QUOTES))
    return _BREAKS.sub("\n", _SPACES.sub(" ", plain)).lstrip()


def read_opening(text: str, max_sentences: int = MAX_SENTENCES, max_characters: int = MAX_CHARACTERS) -> Opening:
    """The first sentences, within the first characters, of the normalised text.

    A sentence ends after ``.``, ``!``, ``?``, ``…``, ``।`` or ``؟`` before white space, after ``。``, ``！`` or ``？``,
    or at a line break, and has at least MIN_SENTENCE_WORDS words, two ideographs or kana counting as one: shorter
    pieces ("No.", "1.", "Dr.") belong to what follows. The limit of characters cuts the last sentence where it stands.
    """
    plain = normalize(text)
    full = len(plain.rstrip()) >= max_characters
    window = plain[:max_characters]
    sentences: list[str] = []
    start = 0
    for end in _END.finditer(window):
        sentence = window[start : end.end()]
        if len(_WORD.findall(sentence)) < MIN_SENTENCE_WORDS:
            continue
        sentences.append(_one_line(sentence))
        start = end.end()
        if len(sentences) == max_sentences:
            return Opening(tuple(sentences), closed=True, last_complete=True)
    rest = _one_line(window[start:])
    if rest:
        sentences.append(rest)
    return Opening(tuple(sentences), closed=full, last_complete=not rest)


def _one_line(sentence: str) -> str:
    """A short piece may have been joined across a line break."""
    return " ".join(sentence.split())
