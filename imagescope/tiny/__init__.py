"""The tiny world: drawn scenes, their language, six benchmarks in the real layouts, and the
training of five small checkpoints that master them.

    scenes.py    what can be drawn, and which scenes are for training and which for benchmarks
    language.py  captions, edits, instructions, questions, dialogues and the answers models learn
    datasets.py  the six benchmarks, written as their authors lay them out
    tokens.py    a byte-level tokenizer that knows the tiny world's words
    reasoner.py  the tiny reasoner: training from nothing, figures on held-out scenes

Nothing here is known to the pipeline: it sees datasets and checkpoints like any others.
"""
