"""A GGUF file of a Llama-family student: the mirror of `nanodistill.models.gguf`, which reads one.

    architectures   which models can be written, and their hyperparameters
    tokenizer       tokenizer.json as GGUF metadata
    tensors         names, order of rows, number types
    writer          the file

mlx_lm writes GGUF too, but of a fused SmolLM2 it wrote a file that llama.cpp
refuses (token types, no merges, q and k permuted for every architecture).
"""
