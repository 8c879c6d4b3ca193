"""CLIP's tokenizer against a literal transcription of openai/CLIP's clip/simple_tokenizer.py on a small file of merges."""

import gzip
import html
import re
from itertools import pairwise

import numpy as np
import pytest

from contray import RunConfig, model
from contray.data import byte_pairs
from contray.data.views import Pipeline
from contray.errors import ConfigError
from contray.methods._base import View

MERGES = ["t h", "th e</w>", "a n", "an d</w>", "i n", "in g</w>", "c a", "ca t</w>", "d o", "do g</w>", "s i", "si t", "t ing</w>", "sit ting</w>",
          "Ã ©", "r e", "o o", "o n</w>", "t o", "to o</w>"]  # fmt: skip
TEXTS = ["The cat and the dog, sitting.", "  A\tCAT\nsitting   ON the dog!!  ", "It's the dog's &amp;amp; they're 2 of 3rd", "Café étude naïve", "noon too_tooo 日本 ...",
         "", "“quoted” ‘text’", "we'll, you've, I'd; I'm don't", "😀 emoji & signs: ½ ² #1"]  # fmt: skip


class Literal:
    """The release's class, without ftfy; its pattern in the words of Python's re."""

    def __init__(self, merges):
        bs = list(range(ord("!"), ord("~") + 1)) + list(range(ord("¡"), ord("¬") + 1)) + list(range(ord("®"), ord("ÿ") + 1))
        cs, n = bs[:], 0
        for b in range(2**8):
            if b not in bs:
                bs.append(b)
                cs.append(2**8 + n)
                n += 1
        self.byte_encoder = dict(zip(bs, map(chr, cs), strict=True))
        merges = [tuple(merge.split()) for merge in merges]
        vocab = list(self.byte_encoder.values())
        vocab = vocab + [v + "</w>" for v in vocab] + ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
        self.encoder = dict(zip(vocab, range(len(vocab)), strict=True))
        self.bpe_ranks = dict(zip(merges, range(len(merges)), strict=True))
        self.pat = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_½²]+|[\d½²]|(?:[^\s\w]|_)+", re.IGNORECASE)

    def bpe(self, token):
        word = (*token[:-1], token[-1] + "</w>")
        while len(word) > 1:
            pairs = set(pairwise(word))
            bigram = min(pairs, key=lambda pair: self.bpe_ranks.get(pair, float("inf")))
            if bigram not in self.bpe_ranks:
                break
            first, second = bigram
            new_word, i = [], 0
            while i < len(word):
                if first not in word[i:]:
                    new_word.extend(word[i:])
                    break
                j = word.index(first, i)
                new_word.extend(word[i:j])
                i = j
                if word[i] == first and i < len(word) - 1 and word[i + 1] == second:
                    new_word.append(first + second)
                    i += 2
                else:
                    new_word.append(word[i])
                    i += 1
            word = tuple(new_word)
        return word

    def encode(self, text):
        for curled, plain in zip("“”‘’", "\"\"''", strict=True):  # what ftfy does of it
            text = text.replace(curled, plain)
        text = re.sub(r"\s+", " ", html.unescape(html.unescape(text)).strip()).strip().lower()
        return [
            self.encoder[part]
            for token in re.findall(self.pat, text)
            for part in self.bpe("".join(self.byte_encoder[b] for b in token.encode("utf-8")))
        ]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "merges.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *MERGES, ""]).encode()))
    return path


def test_texts_become_the_tokens_that_the_release_gives_them(file):
    ours, literal = byte_pairs.read(str(file), "views.text.merges"), Literal(MERGES)
    assert (ours.start, ours.end) == (512 + len(MERGES), 513 + len(MERGES))
    for text in TEXTS:
        expected = [ours.start, *literal.encode(text), ours.end]
        found = ours(text, 77)
        assert found[: len(expected)].tolist() == expected, text
        assert not found[len(expected) :].any()
        assert ours.text(found.tolist()).replace(" ", "") == " ".join(byte_pairs.words(text)).replace(" ", "")
        short = ours(text, 6)  # cut off, as with truncate=True
        assert short.tolist() == (expected if len(expected) <= 6 else [*expected[:5], ours.end]) + [0] * max(0, 6 - len(expected))
    assert len(literal.encode("sitting")) == len(literal.encode("cat")) == 1
    plain = file.with_name("merges.txt")
    plain.write_bytes(gzip.decompress(file.read_bytes()))
    assert np.array_equal(byte_pairs.read(str(plain), "")(TEXTS[0], 20), ours(TEXTS[0], 20))


def test_clip_reads_byte_pairs(file):
    settings = {"views.text.merges": str(file), "method.vocabulary": 49408}
    config = RunConfig.make("clip", settings, preset="digits")
    model.check(config, 1000)
    text = {"text": config.views["text"]}
    ids = Pipeline(text, 1.0)(lambda column, rng: "the cat", (0, 0, 0))["text"]
    assert ids[:4].tolist() == [532, 513, 519, 533]  # start, `the`, `cat`, end: after 512 bytes
    assert ids.shape == (64,)
    with pytest.raises(ConfigError, match=r"method.vocabulary: got 258, must be 49408 where views.text.merges is given"):
        model.check(config.replace({"method.vocabulary": 258}), 1000)
    assert RunConfig.make("clip", preset="digits").run_name != config.run_name


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is none"), (b"\xff\xfe\x00", "cannot be read as text"), (b"a\nb c d\n", "are no byte pair merges")],
)
def test_what_is_no_file_of_merges_is_refused(content, said, tmp_path):
    path = tmp_path / "file.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"views.text.merges: got .*file.txt.*{said}"):
        Pipeline({"text": View(kind="tokens", source="caption", merges=str(path))}, 1.0)
