"""The methods by which plots/projection.py maps embeddings to two or three dimensions."""

METHODS = ("pca", "tsne", "umap")
