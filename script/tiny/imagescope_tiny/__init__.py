"""The tiny world: drawn scenes, their language, six benchmarks in the real layouts, and the
training of five small checkpoints that master them.

    scenes.py     what can be drawn, and which scenes are for training and which for benchmarks
    language.py   captions, descriptions, claims about an image and their truth
    changes.py    edits of a scene, instructions that ask for them
    dialogues.py  a partial caption, then ten questions with their answers
    families.py   look-alikes, each made from another by an edit
    datasets.py, datasets_composed.py   the six benchmarks, as their authors lay them out
    answers.py    what the reasoner is asked and is to answer
    wishes.py     what the evaluator is asked, and which images fulfil it
    learning.py, tokens.py, vision.py   what the five trainings share
    encoder.py captioner.py reasoner.py verifier.py evaluator.py   one checkpoint each
    train.py      all of them
    cli.py        `imagescope tiny`

Nothing here is known to the pipeline: it sees datasets and checkpoints like any others.
"""
