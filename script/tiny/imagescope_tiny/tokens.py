"""A tokenizer for a small world: byte-level BPE in which every word of its corpus is one token.

Any other text is still spelled out, in shorter pieces or bytes, so nothing is out of vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 4096  # an upper bound; the merges of a few hundred words need far less


def word_tokenizer(
    texts: Iterable[str],
    *,
    special: Sequence[str] = (),
    words: Sequence[str] = (),
    prefix: str = "",
    suffix: str = "",
    **roles: Any,
) -> PreTrainedTokenizerFast:
    """A fast tokenizer whose merges spell every word of `texts` in one token.

    special: tokens that decoding leaves out, first in the vocabulary, in this order.
    words: texts kept whole wherever they stand (a newline, say), as ordinary tokens.
    prefix, suffix: special tokens put around every text (the model's own beginning and end).
    roles: bos_token, eos_token, pad_token, chat_template … of PreTrainedTokenizerFast.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
    if prefix or suffix:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{prefix} $A {suffix}".strip(),
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in (prefix, suffix) if t],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
