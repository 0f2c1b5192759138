"""A GGUF file of the Llama family becomes an MLX folder: `convert`, with its parts."""
