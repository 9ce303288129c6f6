"""The kinds of classifier that decide over references, the simplest first."""

KINDS = ("nearest", "knn", "prototype", "lda", "linear")
AUTO = "auto"  # the best of all kinds, chosen on references or validation queries
